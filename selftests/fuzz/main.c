// SPDX-License-Identifier: GPL-2.0
/*
 * Runs the random programs of pmu_fuzz.h on a bare machine and prints what they
 * read: "program <number> <hash>" for each. With FUZZ_DUMP, one program's log,
 * value by value.
 *
 * Start-up code is that of the conformance test.
 */
#include <stddef.h>
#include <stdint.h>

#include "layout.h"
#include "pmu_fuzz.h"

#define COM1		0x3f8
#define APIC_BASE_MSR	0x1b
#define APIC_X2APIC	(1 << 10)
#define X2APIC_SVR	0x80f

struct gate {
	uint16_t offset_low, selector;
	uint8_t ist, type;
	uint16_t offset_mid;
	uint32_t offset_high, reserved;
} __attribute__((packed));

static struct gate idt[256] __attribute__((aligned(16)));
static struct fuzz fuzz;
extern char trap_stubs[];

static void outb(uint16_t port, uint8_t value)
{
	asm volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static uint8_t inb(uint16_t port)
{
	uint8_t value;

	asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static void put_char(char c)
{
	while (!(inb(COM1 + 5) & 0x20))
		;
	outb(COM1, c);
}

static void put_string(const char *s)
{
	while (*s)
		put_char(*s++);
}

static void put_number(uint64_t value, unsigned int base)
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

static void __attribute__((noreturn)) power_off(void)
{
	static const char shutdown[] = "Shutdown";
	const char *c;

	while (!(inb(COM1 + 5) & 0x40))
		;
	for (c = shutdown; *c; c++)
		outb(0x8900, *c);
	for (;;)
		asm volatile("cli; hlt");
}

/* Nothing but what the programs handle themselves is to come. */
void trap(const uint64_t *regs);
void trap(const uint64_t *regs)
{
	put_string("unexpected vector ");
	put_number(regs[15], 10);
	put_string(" at ");
	put_number(regs[17], 16);
	put_string("\n");
	power_off();
}

static void set_gate(unsigned int vector, const char *entry)
{
	uint64_t addr = (uint64_t)entry;

	idt[vector].offset_low = addr;
	idt[vector].offset_mid = addr >> 16;
	idt[vector].offset_high = addr >> 32;
	idt[vector].selector = SEL_CODE64;
	idt[vector].type = 0x8e;
}

static void set_up_interrupts(void)
{
	struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) ptr = { sizeof(idt) - 1, (uint64_t)idt };
	unsigned int v;

	/* None from the PICs. */
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	for (v = 0; v < 256; v++)
		set_gate(v, trap_stubs + 16 * v);
	set_gate(2, fuzz_nmi_entry);
	set_gate(13, fuzz_gp_entry);
	set_gate(FUZZ_PMI_VECTOR, fuzz_pmi_entry);
	set_gate(FUZZ_IPI_VECTOR, fuzz_ipi_entry);
	asm volatile("lidt %0" : : "m"(ptr));

	fuzz_wrmsr(APIC_BASE_MSR, 0xfee00900 | APIC_X2APIC);
	fuzz_wrmsr(X2APIC_SVR, 0x1ff);
	fuzz_mask_timer(&fuzz);
}

static void run_programs(uint64_t first, uint64_t nr)
{
	uint64_t i, hash;

	for (i = first; i < first + nr; i++) {
		hash = fuzz_run(&fuzz, i, FUZZ_OPS);
		put_string("program ");
		put_number(i, 10);
		put_char(' ');
		put_number(hash, 16);
		put_char('\n');
	}
	put_string("end\n");
}

static void dump(uint64_t number)
{
	uint64_t i;

	fuzz_run(&fuzz, number, FUZZ_OPS);
	for (i = 0; i < fuzz.logged; i++) {
		put_number(i, 10);
		put_char(' ');
		put_number(fuzz.log[i], 16);
		put_char('\n');
	}
}

struct cpuid {
	uint32_t eax, ebx, ecx, edx;
};

static struct cpuid cpuid(uint32_t leaf)
{
	struct cpuid c = { .eax = leaf };

	asm volatile("cpuid" : "+a"(c.eax), "=b"(c.ebx), "+c"(c.ecx), "=d"(c.edx));
	return c;
}

static void find_pmu(void)
{
	/* "Auth" */
	fuzz.is_amd = cpuid(0).ebx == 0x68747541;
	if (fuzz.is_amd) {
		fuzz.nr_gp = cpuid(0x80000022).ebx & 0xf;
	} else {
		fuzz.nr_gp = (cpuid(10).eax >> 8) & 0xff;
		fuzz.nr_fixed = cpuid(10).edx & 0x1f;
	}
}

void bsp_main(void);
void bsp_main(void)
{
	outb(COM1 + 3, 0x80);
	outb(COM1, 1);
	outb(COM1 + 1, 0);
	outb(COM1 + 3, 3);
	put_char('\n');
	find_pmu();
	set_up_interrupts();
	if (FUZZ_DUMP >= 0)
		dump(FUZZ_DUMP);
	else
		run_programs(FUZZ_FIRST, FUZZ_NR);
	power_off();
}

/* There is one processor. */
void ap_main(void);
void ap_main(void)
{
}

/* clang may call it. */
void *memset(void *to, int c, size_t n);
void *memset(void *to, int c, size_t n)
{
	void *ret = to;

	asm volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(c) : "memory");
	return ret;
}
