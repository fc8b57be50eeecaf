// SPDX-License-Identifier: GPL-2.0
/*
 * Runs the random programs of pmu_fuzz.h on a bare machine and prints what they
 * read: "program <number> <hash>" for each. With FUZZ_DUMP, one program's log,
 * value by value.
 *
 * Start-up code is that of ../bare.
 */
#include "bare.h"
#include "pmu_fuzz.h"

#define APIC_BASE_MSR	0x1b
#define APIC_X2APIC	(1 << 10)
#define X2APIC_SVR	0x80f

static struct fuzz fuzz;

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

static void set_up_interrupts(void)
{
	init_gates();
	set_gate(2, fuzz_nmi_entry);
	set_gate(13, fuzz_gp_entry);
	set_gate(FUZZ_PMI_VECTOR, fuzz_pmi_entry);
	set_gate(FUZZ_IPI_VECTOR, fuzz_ipi_entry);
	load_gates();

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

void bsp_main(void)
{
	bare_init();
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
void ap_main(void)
{
}
