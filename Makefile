# ferry: `make` builds, `make test` tests, `make demo` shows a guest crossing. `make help` lists all.

VERSION  := 0.1.0
PREFIX   ?= /usr/local
BUILD    ?= build
CC       ?= gcc
LIBS     := libfdt jansson liburing

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
LDLIBS   += -lfdt -ljansson -luring

Q        := $(if $(V),,@)
say       = $(if $(V),,@printf '  %-5s %s\n' '$(1)' '$(2)')

all: $(BUILD)/ferry guest

$(BUILD)/ferry: $(OBJS)
	$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(BUILD)/%.o: %.c Makefile
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

include guest/guest.mk
include tests/tests.mk

clean:
	$(Q)rm -rf $(BUILD)

format:
	$(Q)clang-format -i $(wildcard vmm/*.[ch] vmm/x86/*.[ch] devices/*.[ch] migration/*.[ch] \
		guest/*.[ch] tests/*/*.[ch])

.PHONY: all clean format
-include $(OBJS:.o=.d)
