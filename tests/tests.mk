# Unit tests: one cmocka program a file of tests/unit, linked with all of ferry but main.
UNIT_SRCS := $(wildcard tests/unit/test_*.c)
UNIT_BINS := $(UNIT_SRCS:%.c=$(BUILD)/%)

$(BUILD)/tests/unit/%: $(BUILD)/tests/unit/%.o $(LIBOBJS)
	$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS) -lcmocka

unit: $(UNIT_BINS)
	$(Q)CMOCKA_MESSAGE_OUTPUT=TAP prove --exec '' $(UNIT_BINS)

.PHONY: unit
.SECONDARY: $(UNIT_SRCS:%.c=$(BUILD)/%.o)
-include $(UNIT_SRCS:%.c=$(BUILD)/%.d)
