// SPDX-License-Identifier: GPL-2.0
/* The console, gates, and the end of programs for the bare machine. */
#include "bare.h"

#define COM1	0x3f8

struct gate {
	uint16_t offset_low, selector;
	uint8_t ist, type;
	uint16_t offset_mid;
	uint32_t offset_high, reserved;
} __attribute__((packed));

static struct gate idt[256] __attribute__((aligned(16)));
extern char trap_stubs[];

void bare_init(void)
{
	/* A divisor of 1: 115200 baud; 8 bits, no parity. */
	outb(COM1 + 3, 0x80);
	outb(COM1, 1);
	outb(COM1 + 1, 0);
	outb(COM1 + 3, 3);
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
}

void put_char(char c)
{
	while (!(inb(COM1 + 5) & 0x20))
		;
	outb(COM1, c);
}

void put_string(const char *s)
{
	while (*s)
		put_char(*s++);
}

void put_number(uint64_t value, unsigned int base)
{
	char buf[24];
	int i = sizeof(buf) - 1;

	buf[i] = 0;
	do {
		buf[--i] = "0123456789abcdef"[value % base];
		value /= base;
	} while (value);
	put_string(buf + i);
}

void power_off(void)
{
	static const char shutdown[] = "Shutdown";
	const char *c;

	/* Wait until the console is through. */
	while (!(inb(COM1 + 5) & 0x40))
		;
	for (c = shutdown; *c; c++)
		outb(0x8900, *c);
	for (;;)
		asm volatile("cli; hlt");
}

void set_gate(unsigned int vector, const void *entry)
{
	uint64_t addr = (uint64_t)(entry ? entry : trap_stubs + 16 * vector);

	idt[vector].offset_low = addr;
	idt[vector].offset_mid = addr >> 16;
	idt[vector].offset_high = addr >> 32;
	idt[vector].selector = SEL_CODE64;
	idt[vector].type = vector >= VEC_USER ? 0xee : 0x8e;
}

void init_gates(void)
{
	unsigned int vector;

	for (vector = 0; vector < 256; vector++)
		set_gate(vector, NULL);
}

void load_gates(void)
{
	struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) idt_ptr = { sizeof(idt) - 1, (uint64_t)idt };

	asm volatile("lidt %0" : : "m"(idt_ptr));
}

/* clang may call these. */
void *memset(void *to, int c, size_t n);
void *memset(void *to, int c, size_t n)
{
	void *ret = to;

	asm volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(c) : "memory");
	return ret;
}

void *memcpy(void *to, const void *from, size_t n);
void *memcpy(void *to, const void *from, size_t n)
{
	void *ret = to;

	asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
	return ret;
}
