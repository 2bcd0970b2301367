# Unit tests: one cmocka program a file of tests/unit, linked with all of ferry but main.
#   make unit               all of them          make unit UNIT=loop    one
#   make unit-asan          under ASan and UBSan
#   make unit-tsan          those that have threads, under TSan
UNIT_SRCS := $(wildcard tests/unit/test_$(or $(UNIT),*).c)
UNIT_BINS := $(UNIT_SRCS:%.c=$(BUILD)/%)
TSAN_TESTS := loop memory stream stream_io channel

$(BUILD)/tests/unit/%: $(BUILD)/tests/unit/%.o $(LIBOBJS)
	$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS) -lcmocka

unit: $(UNIT_BINS)
	$(Q)CMOCKA_MESSAGE_OUTPUT=TAP prove --exec '' $(UNIT_BINS)

unit-asan:
	$(Q)$(MAKE) unit CC=clang BUILD=$(BUILD)/asan \
		SAN='-fsanitize=address,undefined -fno-sanitize-recover=all'

# One prove for all: a test that does not exist (yet) is left out by the wildcard.
unit-tsan:
	$(Q)$(MAKE) unit CC=clang BUILD=$(BUILD)/tsan SAN=-fsanitize=thread \
		UNIT_SRCS='$(wildcard $(TSAN_TESTS:%=tests/unit/test_%.c))'

.PHONY: unit unit-asan unit-tsan
.SECONDARY: $(UNIT_SRCS:%.c=$(BUILD)/%.o)
-include $(UNIT_SRCS:%.c=$(BUILD)/%.d)
-include tests/fuzz/fuzz.mk
