// SPDX-License-Identifier: GPL-2.0
/*
 * Runs the random programs of pmu_fuzz.h on a bare machine and prints what they
 * read: "program <number> <left out> <left out> <hash>" for each, and with
 * FUZZ_VALUES its code and each single value. "late <instructions>" comes first
 * where they are for PMIs that come late (pmu_fuzz_late.h).
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
	set_gate(2, FUZZ_LATE ? fuzz_late_nmi_entry : fuzz_nmi_entry);
	set_gate(13, fuzz_gp_entry);
	set_gate(FUZZ_PMI_VECTOR, FUZZ_LATE ? fuzz_late_pmi_entry : fuzz_pmi_entry);
	set_gate(FUZZ_IPI_VECTOR, fuzz_ipi_entry);
	load_gates();

	fuzz_wrmsr(APIC_BASE_MSR, 0xfee00900 | APIC_X2APIC);
	fuzz_wrmsr(X2APIC_SVR, 0x1ff);
	fuzz_mask_timer(&fuzz);
}

#ifdef FUZZ_LIST
static const struct fuzz_program programs[] = {
#include FUZZ_LIST
};

#define NR_PROGRAMS	(sizeof(programs) / sizeof(programs[0]))

static struct fuzz_program program_at(uint64_t i)
{
	return programs[i];
}
#else
#define NR_PROGRAMS	FUZZ_NR

static struct fuzz_program program_at(uint64_t i)
{
	return (struct fuzz_program) { .number = FUZZ_FIRST + i };
}
#endif

static void put_program(const struct fuzz_program *program, uint64_t hash)
{
	put_string("program ");
	put_number(program->number, 10);
	put_char(' ');
	put_number(program->without[0], 16);
	put_char(' ');
	put_number(program->without[1], 16);
	put_char(' ');
	put_number(hash, 16);
	put_char('\n');
}

static void put_values(void)
{
	uint64_t i;

	put_string("code");
	for (i = 0; i < fuzz.size; i++) {
		put_char(' ');
		put_number(fuzz.code[i], 16);
	}
	put_char('\n');
	for (i = 0; i < fuzz.logged; i++) {
		put_string("value ");
		put_number(i, 10);
		put_char(' ');
		put_number(fuzz.log[i], 16);
		put_char('\n');
	}
}

static void run_programs(void)
{
	struct fuzz_program program;
	uint64_t i, hash;

	if (FUZZ_LATE) {
		put_string("late ");
		put_number(FUZZ_LATE, 10);
		put_char('\n');
	}
	for (i = 0; i < NR_PROGRAMS; i++) {
		program = program_at(i);
		hash = fuzz_run(&fuzz, &program);
		put_program(&program, hash);
		if (FUZZ_VALUES)
			put_values();
	}
	put_string("end\n");
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
	fuzz.late = FUZZ_LATE;
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
	run_programs();
	power_off();
}

/* There is one processor. */
void ap_main(void)
{
}
