# make bench compares ferry with QEMU (tests/bench/README.md). BENCH=… gives options. Where /dev/kvm is missing
# it runs in the lab, with what an emulated host can do in some minutes.
#: make bench       compare ferry with QEMU on the same workload (in the lab where KVM is missing)
#:   BENCH=…         options of tests/bench/bench
BENCH     ?=
BENCH_LAB ?= --scale 8 --runs 5 --patience 300

$(BUILD)/bare: tests/bench/bare.c
	$(call say,CC,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -o $@ $<

bench: all $(BUILD)/bare
	$(Q)if [ -w /dev/kvm ]; then BUILD=$(BUILD) tests/bench/bench $(BENCH); else \
		echo 'No usable /dev/kvm here: running in the lab, sizes reduced by: $(BENCH_LAB)'; \
		BUILD=$(BUILD) tests/lab/box -e BUILD --memory 2G --timeout 5400 -- tests/bench/bench $(BENCH_LAB) \
			--note 'emulated host (tests/lab/box)' $(BENCH); fi

.PHONY: bench
