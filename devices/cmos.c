/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The PC's CMOS: real-time clock (Motorola MC146818A data sheet, "register" below) and the memory
 * that its battery keeps, behind an index and a data port.
 *
 * The time is the host's (UTC) plus an offset, so the clock is right again wherever the machine
 * wakes up. There are no interrupts: the periodic and alarm flags never rise, the update flag does.
 */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "vmm/device.h"

#define CMOS_PORT  0x70
#define PORT_INDEX 0
#define PORT_DATA  1
#define CMOS_SIZE  128

enum { /* what the bytes mean */
       RTC_SECONDS = 0x00,
       RTC_MINUTES = 0x02,
       RTC_HOURS = 0x04,
       RTC_WEEKDAY = 0x06,
       RTC_DAY = 0x07,
       RTC_MONTH = 0x08,
       RTC_YEAR = 0x09,
       RTC_A = 0x0a,
       RTC_B = 0x0b,
       RTC_C = 0x0c,
       RTC_D = 0x0d,
       BASE_KIB = 0x15,	      /* 2 bytes: RAM below 640 KiB */
       EXTENDED_KIB = 0x17,   /* 2 bytes: RAM above 1 MiB, as far as it fits */
       EXTENDED_KIB_2 = 0x30, /* 2 bytes: the same, as found by the firmware */
       RTC_CENTURY = 0x32,
       ABOVE_16M = 0x34, /* 2 bytes, units of 64 KiB */
       ABOVE_4G = 0x5b,	 /* 3 bytes, units of 64 KiB */
};

#define A_UIP	     0x80 /* an update is about to begin */
#define A_DEFAULT    0x26 /* 32.768 kHz, 1024 Hz */
#define B_SET	     0x80 /* the clock is held while it is set */
#define B_INTERRUPTS 0x70
#define B_SQWE	     0x08
#define B_BINARY     0x04 /* else BCD */
#define B_24H	     0x02
#define C_IRQF	     0x80
#define C_UF	     0x10
#define D_VALID	     0x80
#define HOUR_PM	     0x80
#define UIP_LEAD_NS  244000 /* UIP rises this long before the update */
#define SECOND_NS    1000000000
#define KIB	     1024
#define UNIT_64K     (64 * KIB)

struct cmos_state {
	uint8_t index;
	uint8_t ram[CMOS_SIZE]; /* time and registers C and D apart, the bytes as they are read */
	uint64_t offset;	/* seconds, signed: guest's time minus host's; while not B_SET */
	uint64_t update_seen;	/* the guest's second in which register C was last read */
};

#define KEPT(m, t, bytes, n)                                                             \
	{                                                                                \
		.name = #m, .type = (t), .since = 1, .flags = FIELD_KEEP,                \
		.offset = offsetof(struct cmos_state, m), .size = (bytes), .count = (n), \
		.count_offset = NO_COUNT, .max = UINT64_MAX                              \
	}

/* A battery keeps these over a reset. */
static const struct field cmos_fields[] = {
	FIELD_INT(struct cmos_state, index, 0, CMOS_SIZE - 1),
	KEPT(ram, FIELD_BYTES, 1, CMOS_SIZE),
	KEPT(offset, FIELD_UINT, sizeof(uint64_t), 1),
	KEPT(update_seen, FIELD_UINT, sizeof(uint64_t), 1),
	FIELDS_END,
};

struct cmos {
	struct device dev;
	struct cmos_state state;
};

/* Wraps around as unsigned numbers do: the offset is any 64 bits a stream or a guest made it. */
static uint64_t guest_seconds(const struct cmos_state *s, long *ns)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	if (ns)
		*ns = now.tv_nsec;
	return (uint64_t)now.tv_sec + s->offset;
}

static uint8_t encode(const struct cmos_state *s, int value)
{
	return (uint8_t)(s->ram[RTC_B] & B_BINARY ? value : value / 10 * 16 + value % 10);
}

static int decode(const struct cmos_state *s, uint8_t byte)
{
	return s->ram[RTC_B] & B_BINARY ? byte : (byte >> 4) * 10 + (byte & 15);
}

static uint8_t encode_hour(const struct cmos_state *s, int hour)
{
	if (s->ram[RTC_B] & B_24H)
		return encode(s, hour);
	return encode(s, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? HOUR_PM : 0);
}

static int decode_hour(const struct cmos_state *s, uint8_t byte)
{
	if (s->ram[RTC_B] & B_24H)
		return decode(s, byte);
	return decode(s, byte & ~HOUR_PM) % 12 + (byte & HOUR_PM ? 12 : 0);
}

/* Put the time that it is into the time registers. */
static void show_time(struct cmos_state *s)
{
	time_t now = (time_t)guest_seconds(s, NULL);
	struct tm tm;

	/* Only a year that overflows an int fails; four digits are shown anyway. */
	if (!gmtime_r(&now, &tm))
		return;
	s->ram[RTC_SECONDS] = encode(s, tm.tm_sec);
	s->ram[RTC_MINUTES] = encode(s, tm.tm_min);
	s->ram[RTC_HOURS] = encode_hour(s, tm.tm_hour);
	s->ram[RTC_WEEKDAY] = encode(s, tm.tm_wday + 1);
	s->ram[RTC_DAY] = encode(s, tm.tm_mday);
	s->ram[RTC_MONTH] = encode(s, tm.tm_mon + 1);
	s->ram[RTC_YEAR] = encode(s, (tm.tm_year % 100 + 100) % 100);
	s->ram[RTC_CENTURY] = encode(s, (tm.tm_year / 100 + 19) % 100);
}

/* Make the time registers the time that it is. */
static void set_time(struct cmos_state *s)
{
	struct tm tm = {
		.tm_sec = decode(s, s->ram[RTC_SECONDS]),
		.tm_min = decode(s, s->ram[RTC_MINUTES]),
		.tm_hour = decode_hour(s, s->ram[RTC_HOURS]),
		.tm_mday = decode(s, s->ram[RTC_DAY]),
		.tm_mon = decode(s, s->ram[RTC_MONTH]) - 1,
		.tm_year =
			decode(s, s->ram[RTC_YEAR]) + 100 * decode(s, s->ram[RTC_CENTURY]) - 1900,
	};

	s->offset += (uint64_t)timegm(&tm) - guest_seconds(s, NULL);
}

static bool is_time(uint8_t index)
{
	switch (index) {
	case RTC_SECONDS:
	case RTC_MINUTES:
	case RTC_HOURS:
	case RTC_WEEKDAY:
	case RTC_DAY:
	case RTC_MONTH:
	case RTC_YEAR:
	case RTC_CENTURY:
		return true;
	default:
		return false;
	}
}

static uint8_t read_a(const struct cmos_state *s)
{
	long ns;

	guest_seconds(s, &ns);
	return s->ram[RTC_A] |
	       (!(s->ram[RTC_B] & B_SET) && ns >= SECOND_NS - UIP_LEAD_NS ? A_UIP : 0);
}

/* Reading clears the flags. */
static uint8_t read_c(struct cmos_state *s)
{
	uint64_t now = guest_seconds(s, NULL);
	uint8_t flags = now != s->update_seen && !(s->ram[RTC_B] & B_SET) ? C_UF : 0;

	s->update_seen = now;
	return flags | (flags & s->ram[RTC_B] & B_INTERRUPTS ? C_IRQF : 0);
}

static uint8_t read_byte(struct cmos_state *s)
{
	if (is_time(s->index) && !(s->ram[RTC_B] & B_SET))
		show_time(s);
	switch (s->index) {
	case RTC_A:
		return read_a(s);
	case RTC_C:
		return read_c(s);
	case RTC_D:
		return D_VALID;
	default:
		return s->ram[s->index];
	}
}

static void write_b(struct cmos_state *s, uint8_t value)
{
	bool was_set = s->ram[RTC_B] & B_SET;

	if (!was_set && (value & B_SET))
		show_time(s);
	s->ram[RTC_B] = value;
	if (was_set && !(value & B_SET))
		set_time(s);
}

static void write_byte(struct cmos_state *s, uint8_t value)
{
	switch (s->index) {
	case RTC_A:
		s->ram[RTC_A] = value & ~A_UIP;
		return;
	case RTC_B:
		write_b(s, value);
		return;
	case RTC_C:
	case RTC_D:
		return;
	default:
		break;
	}
	if (!is_time(s->index) || (s->ram[RTC_B] & B_SET)) {
		s->ram[s->index] = value;
		return;
	}
	show_time(s);
	s->ram[s->index] = value;
	set_time(s);
}

/* Accesses wider than a byte are not a thing of this device; the first byte counts. */
static void cmos_read(struct device *dev, uint64_t offset, void *data, unsigned int len)
{
	struct cmos_state *s = &((struct cmos *)dev)->state;

	memset(data, 0xff, len);
	/* The index cannot be read back on a PC. */
	if (offset == PORT_DATA)
		*(uint8_t *)data = read_byte(s);
}

static void cmos_write(struct device *dev, uint64_t offset, const void *data, unsigned int len)
{
	struct cmos_state *s = &((struct cmos *)dev)->state;
	uint8_t value = *(const uint8_t *)data;

	(void)len;
	/* The top bit of the index masks the NMI, of which there is none. */
	if (offset == PORT_INDEX)
		s->index = value & (CMOS_SIZE - 1);
	else
		write_byte(s, value);
}

static const struct bus_ops cmos_bus_ops = { cmos_read, cmos_write };

static void put_le(uint8_t *to, uint64_t value, unsigned int bytes)
{
	uint64_t most = (1ULL << (8 * bytes)) - 1;

	value = value < most ? value : most;
	for (unsigned int i = 0; i < bytes; i++)
		to[i] = (uint8_t)(value >> (8 * i));
}

/* What a PC's firmware leaves there about the RAM, below and above the 32-bit hole. */
static void put_memory_size(uint8_t *ram, const struct memory *mem)
{
	uint64_t low = mem->n_regions > 0 ? mem->regions[0].size : 0;
	uint64_t high = mem->n_regions > 1 ? mem->regions[1].size : 0;
	uint64_t above_1m = low > KIB * KIB ? low - KIB * KIB : 0;
	uint64_t above_16m = low > 16 * KIB * KIB ? low - 16 * KIB * KIB : 0;

	put_le(ram + BASE_KIB, 640, 2);
	put_le(ram + EXTENDED_KIB, above_1m / KIB, 2);
	put_le(ram + EXTENDED_KIB_2, above_1m / KIB, 2);
	put_le(ram + ABOVE_16M, above_16m / UNIT_64K, 2);
	put_le(ram + ABOVE_4G, high / UNIT_64K, 3);
}

static int cmos_realize(struct device *dev, const void *fdt, int node, struct error *err)
{
	struct cmos_state *s = &((struct cmos *)dev)->state;
	uint64_t base, size;
	bool pio;
	int ret = device_node_reg(fdt, node, &base, &size, &pio, err);

	if (ret < 0)
		return ret;
	if (!pio || size != 2)
		return error_set(err, -EINVAL, "realize", dev->name, "reg", "2 ports",
				 "%llu bytes of %s", (unsigned long long)size,
				 pio ? "ports" : "memory");
	s->ram[RTC_A] = A_DEFAULT;
	s->ram[RTC_B] = B_24H;
	put_memory_size(s->ram, device_memory(dev));
	return device_claim_pio(dev, base, size, &cmos_bus_ops, err);
}

static void cmos_unrealize(struct device *dev)
{
	device_release_ranges(dev);
}

static void cmos_reset(struct device *dev)
{
	struct cmos_state *s = &((struct cmos *)dev)->state;

	/* The RESET pin clears just these (register B). */
	s->ram[RTC_B] &= ~(B_INTERRUPTS | B_SQWE);
}

static const struct device_class cmos_class;

static int cmos_add_default(struct machine_tree *mt, struct error *err)
{
	int ret = machine_tree_begin_pio(mt, &cmos_class, NULL, CMOS_PORT, 2, -1, err);

	return ret < 0 ? ret : machine_tree_end(mt, err);
}

static const struct device_class cmos_class = {
	.name = "cmos",
	.compatible = "motorola,mc146818",
	.stage = STAGE_DEVICE,
	.option = { .add_default = cmos_add_default },
	.size = sizeof(struct cmos),
	.state_offset = offsetof(struct cmos, state),
	.state_size = sizeof(struct cmos_state),
	.fields = cmos_fields,
	.realize = cmos_realize,
	.unrealize = cmos_unrealize,
	.reset = cmos_reset,
};
DEVICE_CLASS(cmos_class);
