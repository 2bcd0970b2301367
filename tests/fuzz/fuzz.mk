# Fuzzing: `make fuzz` gives each target FUZZ_SECONDS, under ASan and UBSan. Needs clang. What it
# learns stays in build/fuzz/corpus-*; seeds, if there are any, come from tests/fuzz/seeds-*.
#: make fuzz        each fuzz target for a while, under ASan and UBSan    FUZZ_SECONDS=30
#: make fuzz-NAME   one of them (tests/fuzz/fuzz_NAME.c)
FUZZ_SECONDS ?= 30
FUZZ_CC      ?= clang
FUZZ_BUILD   := $(BUILD)/fuzz
FUZZ_FLAGS   := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined
FUZZ_NAMES   := $(patsubst tests/fuzz/fuzz_%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
FUZZ_OBJS    := $(filter-out vmm/main.c,$(SRCS))
FUZZ_OBJS    := $(FUZZ_OBJS:%.c=$(FUZZ_BUILD)/%.o)

$(FUZZ_BUILD)/%.o: %.c Makefile
	$(call say,CC,$< (fuzz))
	@mkdir -p $(@D)
	$(Q)$(FUZZ_CC) $(CPPFLAGS) $(CFLAGS) $(FUZZ_FLAGS) -MMD -MP -c -o $@ $<

$(FUZZ_BUILD)/fuzz_%: $(FUZZ_BUILD)/tests/fuzz/fuzz_%.o $(FUZZ_OBJS)
	$(call say,LD,$@)
	$(Q)$(FUZZ_CC) $(LDFLAGS) -fsanitize=fuzzer,address,undefined -o $@ $^ $(LDLIBS)

# One target: make fuzz-record. It fails when an input crashes, hangs, leaks or takes much memory;
# the input is then beside the log.
fuzz-%: $(FUZZ_BUILD)/fuzz_%
	@mkdir -p $(FUZZ_BUILD)/corpus-$*
	$(Q)$< -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -len_control=0 -timeout=10 \
		-rss_limit_mb=1024 -print_final_stats=1 -verbosity=0 -artifact_prefix=$(FUZZ_BUILD)/$*- \
		$(FUZZ_BUILD)/corpus-$* $(wildcard tests/fuzz/seeds-$*) 2>$(FUZZ_BUILD)/$*.log || \
		{ grep -m1 -A40 ERROR $(FUZZ_BUILD)/$*.log; exit 1; }
	$(Q)sed -n 's/^stat::number_of_executed_units: */fuzz $*: inputs without a finding: /p' \
		$(FUZZ_BUILD)/$*.log

fuzz: $(FUZZ_NAMES:%=fuzz-%)

.PHONY: fuzz
.SECONDARY: $(FUZZ_OBJS) $(FUZZ_NAMES:%=$(FUZZ_BUILD)/tests/fuzz/fuzz_%.o) \
	$(FUZZ_NAMES:%=$(FUZZ_BUILD)/fuzz_%)
-include $(FUZZ_OBJS:.o=.d) $(FUZZ_NAMES:%=$(FUZZ_BUILD)/tests/fuzz/fuzz_%.d)
