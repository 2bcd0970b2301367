/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * 16550A UART: its registers, and the state behind them (National Semiconductor PC16550D data
 * sheet, June 1995, section 8).
 *
 * Time is not modelled: a byte written is sent at once, so the transmitter is busy only while the
 * host is slow, and a receive timeout is due as soon as a byte waits below the trigger level.
 */
#include "devices/serial.h"

#include <errno.h>
#include <string.h>

const struct field serial_fields[] = {
	FIELD_INT(struct serial_state, ier, 0, IER_MASK),
	FIELD_ANY(struct serial_state, fcr),
	FIELD_ANY(struct serial_state, lcr),
	FIELD_INT(struct serial_state, mcr, 0, MCR_MASK),
	FIELD_ANY(struct serial_state, scr),
	FIELD_ANY(struct serial_state, dll),
	FIELD_ANY(struct serial_state, dlm),
	FIELD_ANY(struct serial_state, msr),
	FIELD_BOOL(struct serial_state, overrun),
	FIELD_BOOL(struct serial_state, thre),
	FIELD_INT(struct serial_state, n_rx, 0, FIFO_SIZE),
	FIELD_INT(struct serial_state, n_tx, 0, FIFO_SIZE),
	FIELD_RAW_N(struct serial_state, rx, n_rx),
	FIELD_RAW_N(struct serial_state, tx, n_tx),
	FIELD_CHARDEV(struct serial_state, chardev),
	FIELDS_END,
};

static uint32_t fifo_size(const struct serial_state *s)
{
	return s->fcr & FCR_ENABLE ? FIFO_SIZE : 1;
}

static uint32_t trigger_level(const struct serial_state *s)
{
	static const uint32_t levels[] = { 1, 4, 8, 14 };

	return s->fcr & FCR_ENABLE ? levels[s->fcr >> 6] : 1;
}

/* The interrupt of highest priority (table 3), IIR_NONE if none. */
static uint8_t pending(const struct serial_state *s)
{
	if ((s->ier & IER_ELSI) && s->overrun)
		return IIR_LINE;
	if ((s->ier & IER_ERBFI) && s->n_rx > 0)
		return s->n_rx >= trigger_level(s) ? IIR_DATA : IIR_TIMEOUT;
	if ((s->ier & IER_ETBEI) && s->thre)
		return IIR_THRE;
	if ((s->ier & IER_EDSSI) && (s->msr & MSR_DELTA))
		return IIR_MODEM;
	return IIR_NONE;
}

static void set_line(struct serial *serial, bool level)
{
	serial->level = level;
	device_irq_set(&serial->dev, serial->gsi, level);
}

static void update_line(struct serial *serial)
{
	const struct serial_state *s = &serial->state;
	bool level = (s->mcr & MCR_OUT2) && pending(s) != IIR_NONE;

	if (level != serial->level)
		set_line(serial, level);
}

static void receive_byte(struct serial_state *s, uint8_t byte)
{
	if (s->n_rx < fifo_size(s)) {
		s->rx[s->n_rx++] = byte;
		return;
	}
	/* The FIFO keeps what it has; a single register is overwritten (8.6.3). */
	s->overrun = true;
	if (!(s->fcr & FCR_ENABLE))
		s->rx[0] = byte;
}

static void send_tx(struct serial *serial)
{
	struct serial_state *s = &serial->state;
	size_t n = chardev_write(serial->chardev, s->tx, s->n_tx);

	s->n_tx -= (uint32_t)n;
	memmove(s->tx, s->tx + n, s->n_tx);
	if (s->n_tx == 0)
		s->thre = true;
}

static void write_thr(struct serial *serial, uint8_t byte)
{
	struct serial_state *s = &serial->state;

	s->thre = false;
	if (s->mcr & MCR_LOOP) {
		receive_byte(s, byte);
		s->thre = s->n_tx == 0;
		return;
	}
	/* A driver that does not wait for LSR.THRE loses bytes, here as there. */
	if (s->n_tx < fifo_size(s))
		s->tx[s->n_tx++] = byte;
	send_tx(serial);
}

static uint8_t read_rbr(struct serial *serial)
{
	struct serial_state *s = &serial->state;
	uint8_t byte = s->rx[0];

	if (s->n_rx == 0)
		return 0;
	s->n_rx--;
	memmove(s->rx, s->rx + 1, s->n_rx);
	if (s->n_rx == 0)
		chardev_poke(serial->chardev);
	return byte;
}

static void write_ier(struct serial_state *s, uint8_t value)
{
	/* Enabling the interrupt of a transmitter that is empty raises it; drivers test for that.
	 */
	if ((value & ~s->ier & IER_ETBEI) && s->n_tx == 0)
		s->thre = true;
	s->ier = value & IER_MASK;
}

static uint8_t read_iir(struct serial_state *s)
{
	uint8_t iir = pending(s);

	if (iir == IIR_THRE)
		s->thre = false;
	return iir | (s->fcr & FCR_ENABLE ? IIR_FIFOS : 0);
}

static void write_fcr(struct serial *serial, uint8_t value)
{
	struct serial_state *s = &serial->state;
	bool switched = (value ^ s->fcr) & FCR_ENABLE;

	if (switched || (value & FCR_CLEAR_RX)) {
		s->n_rx = 0;
		chardev_poke(serial->chardev);
	}
	if (switched || (value & FCR_CLEAR_TX)) {
		s->n_tx = 0;
		s->thre = true;
	}
	s->fcr = value & FCR_ENABLE ? value & (FCR_ENABLE | FCR_TRIGGER) : 0;
}

static uint8_t read_lsr(struct serial_state *s)
{
	uint8_t lsr = 0;

	if (s->n_rx > 0)
		lsr |= LSR_DR;
	if (s->overrun)
		lsr |= LSR_OE;
	if (s->n_tx == 0)
		lsr |= LSR_THRE | LSR_TEMT;
	s->overrun = false;
	return lsr;
}

/* The modem's lines: a peer that is always there, or the own outputs in loopback (8.6.7). */
static void update_modem(struct serial_state *s)
{
	uint8_t lines = MSR_DCD | MSR_DSR | MSR_CTS;
	uint8_t changed, old = s->msr & ~MSR_DELTA;

	if (s->mcr & MCR_LOOP) {
		lines = s->mcr & MCR_RTS ? MSR_CTS : 0;
		lines |= s->mcr & MCR_DTR ? MSR_DSR : 0;
		lines |= s->mcr & MCR_OUT1 ? MSR_RI : 0;
		lines |= s->mcr & MCR_OUT2 ? MSR_DCD : 0;
	}
	/* Each line's delta is four bits below it; RI counts when it ends only. */
	changed = (lines ^ old) >> 4;
	if (lines & MSR_RI)
		changed &= ~MSR_TERI;
	s->msr = lines | (s->msr & MSR_DELTA) | changed;
}

static void write_mcr(struct serial *serial, uint8_t value)
{
	serial->state.mcr = value & MCR_MASK;
	update_modem(&serial->state);
	/* Input waits while in loopback. */
	chardev_poke(serial->chardev);
}

static uint8_t read_register(struct serial *serial, uint64_t reg)
{
	struct serial_state *s = &serial->state;
	uint8_t value;

	switch (reg) {
	case REG_RBR_THR:
		return s->lcr & LCR_DLAB ? s->dll : read_rbr(serial);
	case REG_IER:
		return s->lcr & LCR_DLAB ? s->dlm : s->ier;
	case REG_IIR_FCR:
		return read_iir(s);
	case REG_LCR:
		return s->lcr;
	case REG_MCR:
		return s->mcr;
	case REG_LSR:
		return read_lsr(s);
	case REG_MSR:
		value = s->msr;
		s->msr &= ~MSR_DELTA;
		return value;
	default:
		return s->scr;
	}
}

static void write_register(struct serial *serial, uint64_t reg, uint8_t value)
{
	struct serial_state *s = &serial->state;

	switch (reg) {
	case REG_RBR_THR:
		if (s->lcr & LCR_DLAB)
			s->dll = value;
		else
			write_thr(serial, value);
		break;
	case REG_IER:
		if (s->lcr & LCR_DLAB)
			s->dlm = value;
		else
			write_ier(s, value);
		break;
	case REG_IIR_FCR:
		write_fcr(serial, value);
		break;
	case REG_LCR:
		s->lcr = value;
		break;
	case REG_MCR:
		write_mcr(serial, value);
		break;
	case REG_SCR:
		s->scr = value;
		break;
	default: /* LSR and MSR are read-only */
		break;
	}
}

/* Wider accesses reach the registers next to each other, as on a PC's 8-bit bus. */
static void serial_read(struct device *dev, uint64_t offset, void *data, unsigned int len)
{
	struct serial *serial = (struct serial *)dev;
	uint8_t *bytes = data;

	for (unsigned int i = 0; i < len; i++)
		bytes[i] = read_register(serial, offset + i);
	update_line(serial);
}

static void serial_write(struct device *dev, uint64_t offset, const void *data, unsigned int len)
{
	struct serial *serial = (struct serial *)dev;
	const uint8_t *bytes = data;

	for (unsigned int i = 0; i < len; i++)
		write_register(serial, offset + i, bytes[i]);
	update_line(serial);
}

const struct bus_ops serial_bus_ops = { serial_read, serial_write };

static size_t serial_receive(struct device *dev, const uint8_t *data, size_t len)
{
	struct serial *serial = (struct serial *)dev;
	struct serial_state *s = &serial->state;
	size_t n = 0;

	while (n < len && s->n_rx < fifo_size(s) && !(s->mcr & MCR_LOOP))
		receive_byte(s, data[n++]);
	update_line(serial);
	return n;
}

static void serial_writable(struct device *dev)
{
	struct serial *serial = (struct serial *)dev;

	if (serial->state.n_tx > 0)
		send_tx(serial);
	update_line(serial);
}

const struct chardev_ops serial_chardev_ops = { serial_receive, serial_writable };

void serial_reset(struct device *dev)
{
	struct serial *serial = (struct serial *)dev;

	update_modem(&serial->state);
	serial->state.msr &= ~MSR_DELTA;
	set_line(serial, false);
}

int serial_check(struct device *dev, const void *staged, struct error *err)
{
	const struct serial_state *s = staged;

	if (s->n_rx > fifo_size(s) || s->n_tx > fifo_size(s))
		return error_set(err, -EINVAL, "load", dev->name, "n_rx", "one byte without FIFOs",
				 "%u received, %u to send", s->n_rx, s->n_tx);
	return 0;
}

/* The interrupt controllers are loaded before us, but may not remember the line. */
int serial_post_load(struct device *dev, struct error *err)
{
	struct serial *serial = (struct serial *)dev;

	(void)err;
	set_line(serial, false);
	update_line(serial);
	return 0;
}
