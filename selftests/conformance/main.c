// SPDX-License-Identifier: GPL-2.0
/* Start-up, console, traps: what the tests of the emulated PMU stand on. */
#include <stdarg.h>
#include "conf.h"

#define COM1	0x3f8

static u32 nr_tests, nr_failed;

/* ------------------------------------------------------------- console */

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

static void put_number(u64 value, unsigned int base)
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

/* %s, %d, %u, %x, each also with l. */
static void put_format(const char *fmt, va_list args)
{
	for (; *fmt; fmt++) {
		bool is_long = false;
		u64 value;

		if (*fmt != '%') {
			put_char(*fmt);
			continue;
		}
		fmt++;
		if (*fmt == 'l') {
			is_long = true;
			fmt++;
		}
		if (*fmt == 's') {
			put_string(va_arg(args, const char *));
			continue;
		}
		value = is_long ? va_arg(args, u64) : va_arg(args, u32);
		if (*fmt == 'd' && !is_long && (int)value < 0) {
			put_char('-');
			value = -(int)value;
		}
		put_number(value, *fmt == 'x' ? 16 : 10);
	}
}

void note(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	put_string("# ");
	put_format(fmt, args);
	put_string("\n");
	va_end(args);
}

static void put_result(bool passed, const char *fmt, va_list args)
{
	nr_tests++;
	if (!passed)
		nr_failed++;
	put_string(passed ? "ok " : "not ok ");
	put_number(nr_tests, 10);
	put_string(" - ");
	put_format(fmt, args);
	put_string("\n");
}

bool ok(bool passed, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	put_result(passed, fmt, args);
	va_end(args);
	return passed;
}

bool is_u64(u64 got, u64 expected, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	put_result(got == expected, fmt, args);
	va_end(args);
	if (got != expected)
		note("got 0x%lx (%lu), expected 0x%lx (%lu)", got, got, expected, expected);
	return got == expected;
}

/* --------------------------------------------------------------- traps */

struct gate {
	u16 offset_low, selector;
	u8 ist, type;
	u16 offset_mid;
	u32 offset_high, reserved;
} __attribute__((packed));

struct tss {
	u32 reserved0;
	u64 rsp[3];
	u64 reserved1;
	u64 ist[7];
	u64 reserved2;
	u16 reserved3, io_map;
} __attribute__((packed));

struct table_ptr {
	u16 limit;
	u64 base;
} __attribute__((packed));

static struct gate idt[256] __attribute__((aligned(16)));
static struct tss tss[MAX_CPUS];
static trap_handler_t handlers[256];
extern char trap_stubs[];
extern u64 gdt[];
extern const u64 __ex_table[][2], __ex_table_end[][2];

volatile u64 last_fault_vector, last_fault_error;
volatile u64 pmi_count, pmi_rip[64];
u8 user_stack[16384] __attribute__((aligned(16)));
static u8 trap_stack[MAX_CPUS][16384] __attribute__((aligned(16)));
u8 scratch[16384] __attribute__((aligned(4096)));

void set_gate(unsigned int vector, void *entry)
{
	u64 addr = (u64)(entry ? entry : trap_stubs + 16 * vector);

	idt[vector].offset_low = addr;
	idt[vector].offset_mid = addr >> 16;
	idt[vector].offset_high = addr >> 32;
	idt[vector].selector = SEL_CODE64;
	idt[vector].type = vector >= VEC_INT ? 0xee : 0x8e;
}

void set_trap_handler(unsigned int vector, trap_handler_t handler)
{
	handlers[vector] = handler;
}

static bool fix_up(struct regs *regs)
{
	const u64 (*entry)[2];

	for (entry = __ex_table; entry < __ex_table_end; entry++) {
		if ((*entry)[0] != regs->rip)
			continue;
		regs->rip = (*entry)[1];
		last_fault_vector = regs->vector;
		last_fault_error = regs->error;
		return true;
	}
	return false;
}

static void __attribute__((noreturn)) power_off(void)
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

void trap(struct regs *regs);
void trap(struct regs *regs)
{
	if (handlers[regs->vector]) {
		handlers[regs->vector](regs);
		return;
	}
	if (regs->vector < 32 && fix_up(regs))
		return;
	note("unexpected vector %lu error %lx at %lx, CR2 %lx", regs->vector, regs->error, regs->rip, read_cr(2));
	put_string("Bail out! unexpected trap\n");
	power_off();
}

static void load_tables(unsigned int cpu)
{
	struct table_ptr idt_ptr = { sizeof(idt) - 1, (u64)idt };
	u64 base = (u64)&tss[cpu];
	u16 selector = SEL_TSS + cpu * 16;

	tss[cpu].rsp[0] = (u64)trap_stack[cpu] + sizeof(trap_stack[cpu]);
	tss[cpu].io_map = sizeof(struct tss);
	gdt[selector / 8] = (sizeof(struct tss) - 1) | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
	gdt[selector / 8 + 1] = base >> 32;
	asm volatile("lidt %0" : : "m"(idt_ptr));
	asm volatile("ltr %0" : : "r"(selector));
	apic_write(APIC_SVR, 0x1ff);
}

/* ----------------------------------------------------- other processors */

volatile u32 nr_cpus = 1;
static void (*volatile cpu_work[MAX_CPUS])(void);
extern char ap_trampoline[], ap_trampoline_end[];

void ap_main(void);
void ap_main(void)
{
	unsigned int cpu = __sync_fetch_and_add(&nr_cpus, 1);
	void (*fn)(void);

	load_tables(cpu);
	for (;;) {
		fn = cpu_work[cpu];
		if (fn) {
			fn();
			cpu_work[cpu] = NULL;
		}
		asm volatile("pause");
	}
}

void start_on(unsigned int cpu, void (*fn)(void))
{
	cpu_work[cpu] = fn;
}

void wait_for(unsigned int cpu)
{
	while (cpu_work[cpu])
		asm volatile("pause");
}

void run_on(unsigned int cpu, void (*fn)(void))
{
	start_on(cpu, fn);
	wait_for(cpu);
}

void delay(u64 ticks)
{
	u64 start = __builtin_ia32_rdtsc();

	while (__builtin_ia32_rdtsc() - start < ticks)
		asm volatile("pause");
}

void start_cpus(void)
{
	char *to = (char *)AP_TRAMPOLINE;
	const char *from;

	for (from = ap_trampoline; from < ap_trampoline_end; from++)
		*to++ = *from;
	apic_write(APIC_ICR_LO, 0xc4500);	/* INIT to all but self */
	delay(1000000);
	apic_write(APIC_ICR_LO, 0xc4600 | AP_TRAMPOLINE >> 12);
	delay(3000000);
	note("%u CPUs", nr_cpus);
}

static const struct pmu *find_pmu(void)
{
	u32 a, b, c, d;

	cpuid(0, 0, &a, &b, &c, &d);
	/* "Auth", enticAMD */
	return b == 0x68747541 ? &amd_pmu : &intel_pmu;
}

void bsp_main(void);
void bsp_main(void)
{
	unsigned int v;

	outb(COM1 + 3, 0x80);
	outb(COM1, 1);
	outb(COM1 + 1, 0);
	outb(COM1 + 3, 3);
	put_string("\nTAP version 13\n");
	/* No interrupts from the PICs. */
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	for (v = 0; v < 256; v++)
		set_gate(v, NULL);
	load_tables(0);

	pmu = find_pmu();
	pmu->test();

	put_string("1..");
	put_number(nr_tests, 10);
	put_string("\n");
	note("%u passed, %u failed", nr_tests - nr_failed, nr_failed);
	power_off();
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
