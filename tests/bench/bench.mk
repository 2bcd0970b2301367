# make bench compares ferry with QEMU (tests/bench/README.md). What needs KVM runs in the lab where /dev/kvm is
# missing, with sizes that an emulated host can do in some minutes.
#: make bench       compare ferry with QEMU on the same workload (in the lab where KVM is missing)
#:   BENCH=…         options of tests/bench/bench
#: make bench-programs  build what it measures with, only
BENCH     ?=
BENCH_LAB ?= --scale 16 --runs 5 --warm-up 0 --patience 300

$(BUILD)/bare $(BUILD)/flood: $(BUILD)/%: tests/bench/%.c
	$(call say,CC,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -o $@ $<

$(BUILD)/ram $(BUILD)/snapshot $(BUILD)/log: $(BUILD)/%: $(BUILD)/tests/bench/%.o $(LIBOBJS)
	$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(BUILD)/deltas: tests/bench/deltas.c
	$(call say,CC,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -o $@ $< -lzstd

bench-programs: $(BUILD)/deltas $(BUILD)/bare $(BUILD)/flood $(BUILD)/ram $(BUILD)/snapshot $(BUILD)/log

# Of what needs KVM: what BENCH names, or all. Status 77 is that of a bench for which nothing was left here.
KVM_PARTS := start boot migrate rates postcopy handover io
LAB_PARTS  = $(if $(filter --only,$(BENCH)),$(filter $(KVM_PARTS),$(BENCH)),$(KVM_PARTS))

bench: all bench-programs
	$(Q)BUILD=$(BUILD) tests/bench/bench $(BENCH) || [ $$? = 77 ]
	$(Q)[ -w /dev/kvm ] || [ -z '$(LAB_PARTS)' ] || { \
		echo 'No usable /dev/kvm here: $(LAB_PARTS) in the lab, sizes and runs: $(BENCH_LAB)'; \
		BUILD=$(BUILD) tests/lab/box -e BUILD --memory 2G --timeout 5400 -- tests/bench/bench \
			$(LAB_PARTS:%=--only %) --output $(BUILD)/bench/lab \
			--note 'an emulated host (tests/lab/box)' $(BENCH_LAB); }

.PHONY: bench bench-programs
