# The test kernel: one freestanding ELF of guest/*.c (a program each) and guest/kernel.

GUEST_SRCS := $(wildcard guest/*.c guest/kernel/*.c)
GUEST_OBJS := $(GUEST_SRCS:%.c=$(BUILD)/%.o) $(BUILD)/guest/kernel/entry.o
GUEST_ELF  := $(BUILD)/guest/ferry-guest.elf

# Nothing here runs on a libc, so the flags of the rest do not apply: addresses are integers, and
# an address may be 0.
GUEST_CFLAGS := -std=gnu11 -g -O2 -I. -ffreestanding -fno-builtin -fno-pic -fno-pie -fno-stack-protector \
	-fno-delete-null-pointer-checks -fno-strict-aliasing -fno-asynchronous-unwind-tables \
	-fcf-protection=none -m64 -mno-red-zone -mgeneral-regs-only \
	-Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wwrite-strings -Wvla -Werror

#: make guest       the test kernel alone
guest: $(GUEST_ELF)

$(GUEST_ELF): $(GUEST_OBJS) guest/kernel/guest.lds
	$(call say,LD,$@)
	$(Q)$(CC) -nostdlib -static -Wl,--build-id=none -Wl,-z,max-page-size=4096 \
		-Wl,-T,guest/kernel/guest.lds -o $@ $(GUEST_OBJS)

$(BUILD)/guest/%.o: guest/%.c guest/guest.mk $(BUILD)/flags
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(GUEST_CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/guest/%.o: guest/%.S guest/guest.mk $(BUILD)/flags
	$(call say,AS,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) -g -m64 -I. -MMD -MP -c -o $@ $<

.PHONY: guest
-include $(GUEST_OBJS:.o=.d)
