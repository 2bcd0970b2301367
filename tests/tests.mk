# Tests: unit tests in C, system tests as scripts, all of them TAP, run by prove.

# With what a test has to say when it fails.
PROVE := prove --timer --failures --comments

#: make test        all tests; installs what is missing    NO_INSTALL=1  only name it
#:                  what cannot run here (no KVM, say) is skipped, with the reason
test:
	$(Q)tests/deps test
	$(Q)$(MAKE) $(JOBS) all unit-programs
	$(Q)CMOCKA_MESSAGE_OUTPUT=TAP BUILD=$(BUILD) $(PROVE) --exec '' $(UNIT_BINS) \
		$(sort $(wildcard tests/system/*.t))

# One cmocka program a file of tests/unit, linked with all of ferry but main.
#: make unit-programs  build the unit tests only
#: make unit        unit tests alone    UNIT=loop  one of them
#: make unit-asan   unit tests under ASan and UBSan
#: make unit-tsan   those that have threads, under TSan
UNIT_SRCS := $(wildcard tests/unit/test_$(or $(UNIT),*).c)
UNIT_BINS := $(UNIT_SRCS:%.c=$(BUILD)/%)
TSAN_TESTS := loop memory vm stream stream_io channel control control_client source destination saved snapshot snapshot_hostile write_guard migration_control virtio_blk cut block blk_mirror hand_over multifd multifd_cut zerocopy postcopy postcopy_bytes postcopy_cut postcopy_hostile postcopy_request postcopy_stall migration_cancel loop_poll virtio_poll throttle dirty_ring

$(BUILD)/tests/unit/%: $(BUILD)/tests/unit/%.o $(LIBOBJS)
	$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS) -lcmocka

unit-programs: $(UNIT_BINS)

unit: unit-programs
	$(Q)CMOCKA_MESSAGE_OUTPUT=TAP $(PROVE) --exec '' $(UNIT_BINS)

unit-asan:
	$(Q)$(MAKE) unit CC=clang BUILD=$(BUILD)/asan \
		SAN='-fsanitize=address,undefined -fno-sanitize-recover=all'

# One prove for all: a test that does not exist (yet) is left out by the wildcard.
unit-tsan:
	$(Q)$(MAKE) unit CC=clang BUILD=$(BUILD)/tsan SAN=-fsanitize=thread \
		UNIT_SRCS='$(wildcard $(TSAN_TESTS:%=tests/unit/test_%.c))'

# A box boots in seconds, but in it everything is 10 to 30 times slower: so each has a few tests and
# a timeout, and they are told to be patient.
#: make lab         the system tests in a box with a /dev/kvm made by software, where there is none
#:   LAB_TESTS=…     some of them (tests/system/run.t)    LAB_PATIENCE=S  how long a step may take
#:   LAB_TIMEOUT=S   how long one of the scripts may take
#:   LAB_ROUNDS=N    how often a guest goes there and back (5)
#:   LAB_SLOWNESS=N  by how much checks of durations are relaxed (20)
#:   LAB_FULL=1      all faults of links between two hosts (netns.t), which takes half an hour more
# Those left out have no use for KVM.
LAB_TESTS    ?= $(filter-out %/guest-qemu.t %/make.t,$(sort $(wildcard tests/system/*.t)))
LAB_PATIENCE ?= 240
LAB_TIMEOUT  ?= 900
LAB_ROUNDS   ?= 5
LAB_SLOWNESS ?= 20
LAB_FULL     ?= 0
LAB_BOX      := tests/lab/box --memory 2G --timeout $(LAB_TIMEOUT) -e BUILD -e FERRY_TEST_PATIENCE \
		-e FERRY_TEST_ROUNDS -e FERRY_TEST_SLOWNESS -e FERRY_TEST_FULL -e FERRY_TEST_KEEP --
lab: export FERRY_TEST_PATIENCE := $(LAB_PATIENCE)
lab: export FERRY_TEST_ROUNDS := $(LAB_ROUNDS)
lab: export FERRY_TEST_SLOWNESS := $(LAB_SLOWNESS)
lab: export FERRY_TEST_FULL := $(LAB_FULL)
lab:
	$(Q)tests/deps lab
	$(Q)$(MAKE) $(JOBS) all
	$(Q)BUILD=$(BUILD) $(PROVE) --exec '$(LAB_BOX)' $(LAB_TESTS)

# It boots its own boxes, two at a time, so it is no script that a box runs.
#: make lab-pair    stock Linux moves between two such hosts while it writes, talks and prints: 1 to 4 minutes
#:   PAIR=full       10 times there and back, one and two vCPUs, and either host dies in each phase: 15 to 25 minutes
PAIR ?= short
lab-pair: export FERRY_PAIR := $(PAIR)
lab-pair:
	$(Q)tests/deps lab
	$(Q)$(MAKE) $(JOBS) all
	$(Q)BUILD=$(BUILD) $(PROVE) --exec '' tests/lab/linux-pair.t

#: make lab-kernels boots kernels that know no ACPI, or no APIC, in the lab; fetches and builds them: some 20 minutes once
lab-kernels:
	$(Q)tests/deps lab
	$(Q)tests/system/kernels/make build/kernels
	$(Q)$(MAKE) lab LAB_TESTS=tests/system/kernels.t

.PHONY: test unit-programs unit unit-asan unit-tsan lab lab-pair lab-kernels
.SECONDARY: $(UNIT_SRCS:%.c=$(BUILD)/%.o)
-include $(UNIT_SRCS:%.c=$(BUILD)/%.d)
-include tests/fuzz/fuzz.mk
-include tests/bench/bench.mk
