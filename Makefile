# ferry: `make` builds, `make test` tests, `make demo` shows a guest crossing. `make help` lists all.
# Lines that begin with #: are what `make help` prints; every target has one beside its rule.

MAKEFLAGS += --no-print-directory
VERSION  := 0.1.0
PREFIX   ?= /usr/local
BUILD    ?= build
ifeq ($(origin CC),default)
CC       := gcc
endif
LIBS     := libfdt jansson liburing libzstd

# Every .c file of these folders is part of ferry: adding a device is adding a file.
SRCS     := $(wildcard vmm/*.c vmm/x86/*.c devices/*.c migration/*.c)
OBJS     := $(SRCS:%.c=$(BUILD)/%.o)
LIBOBJS  := $(filter-out $(BUILD)/vmm/main.o,$(OBJS))

WARN     := -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion -Wstrict-prototypes \
	    -Wmissing-prototypes -Wold-style-definition -Wpointer-arith -Wundef -Wformat=2 \
	    -Wwrite-strings -Wcast-qual -Wswitch-enum -Wvla -Wno-gnu-variable-sized-type-not-at-end \
	    -Werror
SAN      ?=
OPT      ?= -O2
CPPFLAGS += -D_GNU_SOURCE -DFERRY_VERSION='"$(VERSION)"' -I.
CFLAGS   += -std=gnu11 -g $(OPT) -fno-strict-aliasing -pthread $(WARN) $(SAN)
LDFLAGS  += -pthread $(SAN)
LDLIBS   += -lfdt -ljansson -luring -lzstd

Q        := $(if $(V),,@)
say       = $(if $(V),,@printf '  %-5s %s\n' '$(1)' '$(2)')

#: make             build/ferry and the test kernel
#:   CC=clang        with another compiler    BUILD=DIR  elsewhere    V=1  show the commands
all: $(BUILD)/ferry guest

# Objects depend on this file, so that another compiler or other flags build them anew.
FLAGS    := $(CC) $(CPPFLAGS) $(CFLAGS)
ifneq ($(file <$(BUILD)/flags),$(FLAGS))
.PHONY: $(BUILD)/flags
endif
$(BUILD)/flags: export FLAGS_NOW = $(FLAGS)
$(BUILD)/flags:
	@mkdir -p $(@D)
	@echo "$$FLAGS_NOW" >$@

$(BUILD)/ferry: $(OBJS)
	$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(BUILD)/%.o: %.c Makefile $(BUILD)/flags
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

include guest/guest.mk
include tests/tests.mk

# For targets that build and go on: all CPUs, unless told otherwise.
JOBS      = $(if $(filter -j%,$(MAKEFLAGS)),,-j$(shell nproc))

#: make demo        migrate a guest that checks itself, live, and report; installs what is missing;
#:                  on a machine without KVM it says why, and goes on in the lab
#:   LAB=1           in the lab at once    NO_INSTALL=1  only name what is missing
demo:
	$(Q)tests/deps $(if $(LAB),lab,build)
	$(Q)$(MAKE) $(JOBS) all
ifdef LAB
	$(Q)BUILD=$(BUILD) FILL=$${FILL-64} $(DEMO_BOX) tests/demo
else
	$(Q)BUILD=$(BUILD) tests/demo || { [ $$? = 77 ] && $(MAKE) demo LAB=1; }
endif
DEMO_BOX  = tests/lab/box --memory 2G --timeout 300 -e BUILD -e FILL -e WS -e RATE --

#: make linux       stock Linux as a guest: a root shell in this terminal; installs what is missing
#:   CPUS=N  MEMORY=MIB
#:   LAB=1           on a machine without KVM: in the lab, where no input gets to. So nobody can type;
#:                   the guest boots, shows what it sees, and powers off
linux:
	$(Q)$(if $(LAB),,test -w /dev/kvm || { echo 'No usable /dev/kvm here. A slow one, made by' \
		'software, is inside of this, but nobody can type there: make linux LAB=1' >&2; exit 1; })
	$(Q)tests/deps $(if $(LAB),lab,linux)
	$(Q)$(MAKE) $(JOBS) all
	$(Q)guest/linux/pack $(BUILD)/linux
	$(Q)$(if $(LAB),tests/lab/box --memory 2G --timeout 300 -- )$(BUILD)/ferry run \
		--kernel $(BUILD)/linux/vmlinuz --initrd $(BUILD)/linux/initramfs \
		--cmdline 'console=ttyS0$(if $(LAB), noxsave ferry.show)' --memory $(or $(MEMORY),256) \
		--cpus $(or $(CPUS),1) --disk $(BUILD)/linux/disk --rng --console pty \
		--control $(BUILD)/linux/control

#: make help        this list
help:
	@sed -n 's/^#: //p' $(MAKEFILE_LIST)

#: make format      lay out all C files with clang-format; check-format only checks
C_FILES  := $(wildcard vmm/*.[ch] vmm/x86/*.[ch] devices/*.[ch] migration/*.[ch] guest/*.[ch] \
	    guest/kernel/*.[ch] tests/*/*.[ch])
format:
	$(Q)clang-format -i $(C_FILES)

check-format:
	$(Q)clang-format --dry-run -Werror $(C_FILES)

#: make install     ferry and its manual page, below DESTDIR and PREFIX (/usr/local)
#: make uninstall   what install put there
install: $(BUILD)/ferry
	$(call say,INST,$(DESTDIR)$(PREFIX))
	$(Q)install -D -m 755 $(BUILD)/ferry $(DESTDIR)$(PREFIX)/bin/ferry
	$(Q)install -D -m 644 vmm/ferry.1 $(DESTDIR)$(PREFIX)/share/man/man1/ferry.1

uninstall:
	$(Q)rm -f $(DESTDIR)$(PREFIX)/bin/ferry $(DESTDIR)$(PREFIX)/share/man/man1/ferry.1

#: make clean       remove $(BUILD)
clean:
	$(Q)rm -rf $(BUILD)

.PHONY: all demo linux help format check-format install uninstall clean
-include $(OBJS:.o=.d)
