// SPDX-License-Identifier: GPL-2.0
/* What a hypervisor and its guests need of the processor besides the PMU. */
#include "intel.h"

#define CR4_SMAP	BIT(21)
#define NON_CANONICAL	0x8000000000000000

#define USER_PAGES	BIT(39)		/* where the pages of user mode are mapped */
#define LARGE_PAGE	0x200000ull
#define PTE_SUPERVISOR	3
#define PTE_USER	7
#define PTE_LARGE_USER	0x87

/* ------------------------------------- faults right after an entry */

static volatile u64 fault_rip;
static char *volatile expected_rip;
extern char first_faults[], nmi_first_faults[];

/* RAX is not canonical. */
asm(".text\n"
    "first_faults:\n"
    "	mov (%rax), %rax\n"
    "	addq $2, (%rsp)\n"
    "	iretq\n"
    "nmi_first_faults:\n"
    "	mov (%rax), %rax\n"
    "	iretq\n");

static void skip_load(struct regs *regs)
{
	fault_rip = regs->rip;
	/* Go on whatever RIP was saved. */
	regs->rip = (u64)expected_rip + 3;
}

static void check_first_instruction(void)
{
	set_trap_handler(VEC_GP, skip_load);

	fault_rip = 0;
	expected_rip = first_faults;
	set_gate(VEC_UD, first_faults);
	asm volatile("ud2" : : "a"(NON_CANONICAL) : "memory");
	is_u64(fault_rip, (u64)first_faults,
	       "the first instruction of an exception handler faults: its RIP");
	set_gate(VEC_UD, NULL);

	fault_rip = 0;
	expected_rip = nmi_first_faults;
	set_gate(VEC_NMI, nmi_first_faults);
	pmu_reset();
	apic_write(APIC_LVTPC, LVT_NMI);
	setup_pmc(0, EV_INSNS | SEL_OS | SEL_INT);
	preset_pmc(0, 10);
	MEASURE(BIT(0), "mov $0x8000000000000000, %%rax; .rept 20; nop; .endr");
	apic_write(APIC_LVTPC, LVT_MASKED);
	pmu_reset();
	is_u64(fault_rip, (u64)nmi_first_faults,
	       "the first instruction of an NMI handler faults: its RIP");
	set_gate(VEC_NMI, NULL);

	set_trap_handler(VEC_GP, NULL);
}

/* ------------------------------------------------------------- SMAP */

static u64 user_pdpt[512] __attribute__((aligned(4096)));
static u64 user_pd[512] __attribute__((aligned(4096)));
extern u64 pml4[];

static void map_user_pages(bool map)
{
	user_pdpt[0] = (u64)user_pd | PTE_USER;
	user_pd[0] = ((u64)scratch & -LARGE_PAGE) | PTE_LARGE_USER;
	pml4[USER_PAGES >> 39] = map ? (u64)user_pdpt | PTE_USER : 0;
	/* All else is the supervisor's for now. */
	pml4[0] = (pml4[0] & ~PTE_USER) | (map ? PTE_SUPERVISOR : PTE_USER);
	write_cr(3, read_cr(3));
}

static u64 load_fault(u64 address)
{
	u8 value;

	last_fault_vector = 0;
	asm volatile("1: movb (%1), %0\n2:" EX_TABLE : "=q"(value) : "r"(address) : "memory");
	return last_fault_vector;
}

static u64 store_fault(u64 address, u8 value)
{
	last_fault_vector = 0;
	asm volatile("1: movb %0, (%1)\n2:" EX_TABLE : : "q"(value), "r"(address) : "memory");
	return last_fault_vector;
}

static unsigned int load_faults(unsigned int pages)
{
	unsigned int n, faults = 0;

	for (n = 0; n < pages; n++)
		faults += load_fault(USER_PAGES + n * 4096) == VEC_PF;
	return faults;
}

#define stac()	asm volatile("stac" : : : "cc", "memory")
#define clac()	asm volatile("clac" : : : "cc", "memory")

static void check_smap(void)
{
	u64 user = USER_PAGES + ((u64)scratch & (LARGE_PAGE - 1));

	map_user_pages(true);
	write_cr(4, read_cr(4) | CR4_SMAP);

	clac();
	is_u64(load_fault(user), VEC_PF, "SMAP: a load from a user page faults");
	stac();
	is_u64(load_fault(user), 0, "SMAP: with AC a load from a user page");
	is_u64(store_fault(user, 0x5a), 0, "SMAP: with AC a store to a user page");
	is_u64(store_fault(user, 0xa5), 0, "SMAP: with AC another store");
	clac();
	is_u64(load_fault(user), VEC_PF, "SMAP: a load faults again after CLAC");
	is_u64(store_fault(user, 0), VEC_PF, "SMAP: a store faults again after CLAC");
	/* Not before: this might drop the user page from the TLB. */
	is_u64(scratch[0], 0xa5, "SMAP: the last store with AC is there, and no other");

	stac();
	is_u64(load_faults(20), 0, "SMAP: with AC loads from 20 user pages");
	is_u64(load_faults(20), 0, "SMAP: and once more");
	clac();
	is_u64(load_faults(20), 20, "SMAP: all fault after CLAC");

	stac();
	is_u64(load_fault(user), 0, "SMAP: with AC");
	asm volatile("pushf; andq $~0x40000, (%%rsp); popf" : : : "cc", "memory");
	is_u64(load_fault(user), VEC_PF, "SMAP: POPF cleared AC");

	write_cr(4, read_cr(4) & ~CR4_SMAP);
	is_u64(load_fault(user), 0, "without SMAP a load from a user page");
	map_user_pages(false);
}

void test_processor(void)
{
	check_first_instruction();
	check_smap();
}

/* --------------------------------------------- MONITOR and MWAIT */

static struct {
	volatile u8 byte[64];
} lines[MAX_CPUS + 1] __attribute__((aligned(4096)));
static volatile u32 asleep[MAX_CPUS], wakeups[MAX_CPUS];

static void monitor(const volatile void *address)
{
	asm volatile("monitor" : : "a"(address), "c"(0), "d"(0) : "memory");
}

/* Until somebody stores to the last byte of this processor's line. */
static void ap_wait(void)
{
	unsigned int cpu = apic_read(APIC_ID) >> 24;

	asleep[cpu] = 1;
	for (;;) {
		monitor(lines[cpu].byte);
		if (lines[cpu].byte[63])
			break;
		asm volatile("mwait" : : "a"(0), "c"(0) : "memory");
		wakeups[cpu]++;
	}
	asleep[cpu] = 0;
}

static u32 all_wakeups(void)
{
	unsigned int cpu;
	u32 sum = 0;

	for (cpu = 1; cpu < nr_cpus; cpu++)
		sum += wakeups[cpu];
	return sum;
}

void test_mwait(void)
{
	unsigned int cpu, n;

	if (nr_cpus == 1)
		return;
	for (cpu = 1; cpu < nr_cpus; cpu++)
		start_on(cpu, ap_wait);
	delay(100000);
	for (cpu = 1; cpu < nr_cpus; cpu++)
		is_u64(asleep[cpu], 1, "CPU %u: went to sleep", cpu);
	is_u64(all_wakeups(), 0, "MWAIT: nobody wakes the others by going to sleep");

	for (n = 0; n < 10; n++)
		monitor(lines[MAX_CPUS].byte);
	lines[MAX_CPUS].byte[0] = 1;
	delay(100000);
	is_u64(all_wakeups(), 0, "MWAIT: MONITOR and a store to another line wake nobody");

	for (cpu = 1; cpu < nr_cpus; cpu++) {
		lines[cpu].byte[63] = 1;
		wait_for(cpu);
		is_u64(wakeups[cpu], 1, "CPU %u: a store to its line wakes it, once", cpu);
		is_u64(all_wakeups(), cpu, "CPU %u: and it alone", cpu);
	}
}
