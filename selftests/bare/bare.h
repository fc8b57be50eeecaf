/* SPDX-License-Identifier: GPL-2.0 */
/* What programs for the bare machine share: the console, gates, and the end. */
#ifndef BARE_H
#define BARE_H

#include <stddef.h>
#include <stdint.h>

#include "layout.h"

static inline void outb(uint16_t port, uint8_t value)
{
	asm volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline uint8_t inb(uint16_t port)
{
	uint8_t value;

	asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

/* Sets the console up, which is COM1, and has the PICs raise no interrupts. */
void bare_init(void);
void put_char(char c);
void put_string(const char *s);
void put_number(uint64_t value, unsigned int base);
void __attribute__((noreturn)) power_off(void);

/*
 * Let a vector enter code of one's own; NULL brings trap() back, which boot.S calls.
 * User mode may use those from VEC_USER on.
 */
#define VEC_USER	0x80
void set_gate(unsigned int vector, const void *entry);
/* All vectors enter trap(). */
void init_gates(void);
/* Has the calling processor use them. */
void load_gates(void);

/* What a program has to have: where the first processor goes to, and the others. */
void bsp_main(void);
void ap_main(void);

#endif
