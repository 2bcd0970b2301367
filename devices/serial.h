/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The 16550A as serial.c, serial-regs.c and their tests see it. Names are those of the data sheet
 * (National Semiconductor PC16550D, June 1995, section 8).
 */
#ifndef DEVICES_SERIAL_H
#define DEVICES_SERIAL_H

#include "devices/chardev.h"
#include "vmm/device.h"

#define SERIAL_PORT 0x3f8
#define SERIAL_GSI  4
#define FIFO_SIZE   16

enum { /* registers; those with two meanings by direction, and by DLAB in front of IER */
       REG_RBR_THR = 0,
       REG_IER = 1,
       REG_IIR_FCR = 2,
       REG_LCR = 3,
       REG_MCR = 4,
       REG_LSR = 5,
       REG_MSR = 6,
       REG_SCR = 7,
       REGS = 8,
};

#define IER_ERBFI 0x01 /* received data */
#define IER_ETBEI 0x02 /* transmitter empty */
#define IER_ELSI  0x04 /* line status */
#define IER_EDSSI 0x08 /* modem status */
#define IER_MASK  0x0f

#define IIR_NONE    0x01
#define IIR_MODEM   0x00
#define IIR_THRE    0x02
#define IIR_DATA    0x04
#define IIR_LINE    0x06
#define IIR_TIMEOUT 0x0c
#define IIR_FIFOS   0xc0

#define FCR_ENABLE   0x01
#define FCR_CLEAR_RX 0x02
#define FCR_CLEAR_TX 0x04
#define FCR_TRIGGER  0xc0

#define LCR_DLAB 0x80

#define MCR_DTR	 0x01
#define MCR_RTS	 0x02
#define MCR_OUT1 0x04
#define MCR_OUT2 0x08 /* on a PC: lets the interrupt through */
#define MCR_LOOP 0x10
#define MCR_MASK 0x1f

#define LSR_DR	 0x01
#define LSR_OE	 0x02
#define LSR_THRE 0x20
#define LSR_TEMT 0x40

#define MSR_TERI  0x04
#define MSR_DELTA 0x0f
#define MSR_CTS	  0x10
#define MSR_DSR	  0x20
#define MSR_RI	  0x40
#define MSR_DCD	  0x80

struct serial_state {
	uint8_t ier, fcr, lcr, mcr, scr;
	uint8_t dll, dlm; /* divisor; says nothing about our speed */
	uint8_t msr;	  /* lines, and what changed since it was read */
	bool overrun;	  /* LSR.OE */
	bool thre;	  /* the transmitter-empty interrupt is pending */
	uint32_t n_rx, n_tx;
	uint8_t rx[FIFO_SIZE]; /* received, not yet read; one byte deep without FCR_ENABLE */
	uint8_t tx[FIFO_SIZE]; /* written while the host was busy */
	struct chardev_state chardev;
};

struct serial {
	struct device dev;
	struct serial_state state;
	struct chardev *chardev;
	uint32_t gsi;
	bool level; /* of the interrupt line */
};

/* Of serial-regs.c: what the device class of serial.c is made of. */
extern const struct field serial_fields[];
extern const struct bus_ops serial_bus_ops;
extern const struct chardev_ops serial_chardev_ops;
void serial_reset(struct device *dev);
int serial_check(struct device *dev, const void *staged, struct error *err);
int serial_post_load(struct device *dev, struct error *err);

#endif
