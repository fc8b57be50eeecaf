// SPDX-License-Identifier: GPL-2.0
/* Start-up, console, traps: what the tests of the emulated PMU stand on. */
#include <stdarg.h>
#include "conf.h"

static u32 nr_tests, nr_failed;

/* ------------------------------------------------------------- console */

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

struct tss {
	u32 reserved0;
	u64 rsp[3];
	u64 reserved1;
	u64 ist[7];
	u64 reserved2;
	u16 reserved3, io_map;
} __attribute__((packed));

static struct tss tss[MAX_CPUS];
static trap_handler_t handlers[256];
extern u64 gdt[];
extern const u64 __ex_table[][2], __ex_table_end[][2];

volatile u64 last_fault_vector, last_fault_error;
volatile u64 pmi_count, pmi_rip[64];
u8 user_stack[16384] __attribute__((aligned(16)));
static u8 trap_stack[MAX_CPUS][16384] __attribute__((aligned(16)));
u8 scratch[16384] __attribute__((aligned(4096)));

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

void trap(struct regs *regs);
void trap(struct regs *regs)
{
	if (handlers[regs->vector]) {
		handlers[regs->vector](regs);
		return;
	}
	if (regs->vector < 32 && fix_up(regs))
		return;
	note("unexpected vector %lu error %lx at %lx, CR2 %lx", regs->vector, regs->error,
	     regs->rip, read_cr(2));
	put_string("Bail out! unexpected trap\n");
	power_off();
}

static void load_tables(unsigned int cpu)
{
	u64 base = (u64)&tss[cpu];
	u16 selector = SEL_TSS + cpu * 16;

	tss[cpu].rsp[0] = (u64)trap_stack[cpu] + sizeof(trap_stack[cpu]);
	tss[cpu].io_map = sizeof(struct tss);
	gdt[selector / 8] = (sizeof(struct tss) - 1) | (base & 0xffffff) << 16 | 0x89ull << 40 |
			    (base >> 24 & 0xff) << 56;
	gdt[selector / 8 + 1] = base >> 32;
	load_gates();
	asm volatile("ltr %0" : : "r"(selector));
	apic_write(APIC_SVR, 0x1ff);
}

/* ----------------------------------------------------- other processors */

volatile u32 nr_cpus = 1;
static void (*volatile cpu_work[MAX_CPUS])(void);
extern char ap_trampoline[], ap_trampoline_end[];

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

void bsp_main(void)
{
	bare_init();
	put_string("\nTAP version 13\n");
	init_gates();
	load_tables(0);

	pmu = find_pmu();
	find_pmi_delay();
	pmu->find();
	if (pmi_delay)
		test_late();
	else
		pmu->test();

	put_string("1..");
	put_number(nr_tests, 10);
	put_string("\n");
	note("%u passed, %u failed", nr_tests - nr_failed, nr_failed);
	power_off();
}
