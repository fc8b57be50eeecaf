// SPDX-License-Identifier: GPL-2.0
/* The cost counters: hidden, and right. */
#define EMUCOST_NO_LIBC
#include "emucost.h"
#include "vmx.h"

#define ABSENT	0xffffffffu

static u64 before[EMUCOST_NR_VALUES];

static void snapshot(void)
{
	unsigned int n;

	for (n = 0; n < ARRAY_SIZE(before); n++)
		before[n] = emucost_read(0, n);
}

static u64 grown(unsigned int index)
{
	return emucost_read(0, index) - before[index];
}

static void check_hidden(void)
{
	emucost_cmd(EMUCOST_CMD_LATCH);
	emucost_cmd(EMUCOST_CMD_VALUE | EMUCOST_MAGIC * 2);
	is_u64(emucost_data(), ABSENT, "cost counters: absent until unlocked");
	emucost_cmd(EMUCOST_UNLOCK0);
	emucost_cmd(EMUCOST_UNLOCK2);
	emucost_cmd(EMUCOST_UNLOCK1);
	emucost_cmd(EMUCOST_CMD_LATCH);
	emucost_cmd(EMUCOST_CMD_VALUE | EMUCOST_MAGIC * 2);
	is_u64(emucost_data(), ABSENT, "cost counters: absent after a wrong sequence");
	emucost_cmd(EMUCOST_UNLOCK0);
	emucost_cmd(EMUCOST_UNLOCK1);
	is_u64(emucost_data(), ABSENT, "cost counters: absent after a part of the sequence");
	ok(emucost_unlock(), "cost counters: unlocked");
	emucost_lock();
	is_u64(emucost_data(), ABSENT, "cost counters: absent after they were locked");
	ok(emucost_unlock(), "cost counters: unlocked again");
	is_u64(emucost_read(0, ARRAY_SIZE(before)), ~0ull,
	       "cost counters: no value beyond the last");
	is_u64(emucost_read(MAX_CPUS, EMUCOST_HOST_INSNS), ~0ull,
	       "cost counters: no CPU beyond the last");
}

static void cost_of_nothing(void)
{
	u64 first, second;

	emucost_latch();
	first = emucost_read(0, EMUCOST_HOST_INSNS);
	emucost_latch();
	second = emucost_read(0, EMUCOST_HOST_INSNS);
	ok(second > first && second - first < 200, "cost counters: instructions grow");
}

static void check_instructions(void)
{
	u32 low[2];

	emucost_cmd(EMUCOST_CMD_CPU | 0);
	/* Latch, read, latch, 100 NOPs, latch, read. */
	asm volatile("mov %[latch], %%eax; mov %[cmd], %%edx; outl %%eax, %%dx\n\t"
		     "mov %[value], %%eax; outl %%eax, %%dx\n\t"
		     "mov %[data], %%edx; inl %%dx, %%eax; mov %%eax, %1\n\t"
		     "mov %[latch], %%eax; mov %[cmd], %%edx; outl %%eax, %%dx\n\t"
		     ".rept 100; nop; .endr\n\t"
		     "mov %[latch], %%eax; outl %%eax, %%dx\n\t"
		     "mov %[value], %%eax; outl %%eax, %%dx; mov %[data], %%edx; inl %%dx, %%eax"
		     : "=&a"(low[1]), "=&r"(low[0])
		     : [latch] "i"(EMUCOST_CMD_LATCH), [cmd] "i"(EMUCOST_PORT_CMD),
		       [data] "i"(EMUCOST_PORT_DATA),
		       [value] "i"(EMUCOST_CMD_VALUE | EMUCOST_HOST_INSNS * 2)
		     : "rdx", "memory");
	/*
	 * From the first OUT: it, MOV, OUT, MOV, IN, MOV, MOV, MOV, OUT, 100 NOPs, MOV.
	 */
	is_u64(low[1] - low[0], 110, "cost counters: instructions between two latches");
	cost_of_nothing();
}

static void check_accesses(void)
{
	u64 value;
	unsigned int n;

	pmu_reset();
	emucost_latch();
	snapshot();
	for (n = 0; n < 5; n++)
		wrmsr(IA32_PMC0, n);
	for (n = 0; n < 3; n++)
		rdmsr(IA32_PMC0);
	for (n = 0; n < 7; n++)
		rdpmc(0);
	/* These fault and do not count. */
	wrmsr_safe(IA32_PMC0 + NR_GP, 0);
	rdmsr_safe(IA32_PMC0 + NR_GP, &value);
	rdpmc_safe(NR_GP, &value);
	emucost_latch();
	is_u64(grown(EMUCOST_HOST_WRMSR), 5, "cost counters: WRMSR");
	is_u64(grown(EMUCOST_HOST_RDMSR), 3, "cost counters: RDMSR");
	is_u64(grown(EMUCOST_HOST_RDPMC), 7, "cost counters: RDPMC");
	is_u64(grown(EMUCOST_VMEXITS), 0, "cost counters: no VM-exits");
	is_u64(grown(EMUCOST_PMIS), 0, "cost counters: no PMIs");
	is_u64(emucost_read(0, EMUCOST_NCPUS) > 0, 1, "cost counters: number of CPUs");
}

static void check_latch(void)
{
	u64 first;

	emucost_latch();
	first = emucost_read(0, EMUCOST_HOST_WRMSR);
	wrmsr(IA32_PMC0, 0);
	is_u64(emucost_read(0, EMUCOST_HOST_WRMSR), first,
	       "cost counters: values stay until the next latch");
	emucost_latch();
	is_u64(emucost_read(0, EMUCOST_HOST_WRMSR), first + 1,
	       "cost counters: the next latch has it");
}

static void check_pmis(void)
{
	apic_write(APIC_LVTPC, LVT_NMI);
	emucost_latch();
	snapshot();
	setup_pmc(0, EV_INSNS | SEL_OS | SEL_INT);
	preset_pmc(0, 10);
	MEASURE(BIT(0), ".rept 20; nop; .endr");
	preset_pmc(0, 10);
	MEASURE(BIT(0), ".rept 20; nop; .endr");
	emucost_latch();
	is_u64(grown(EMUCOST_PMIS), 1, "cost counters: a PMI counts, a masked one does not");
	apic_write(APIC_LVTPC, LVT_MASKED);
	pmu_reset();
}

void guest_reads_cost(void);
asm(".text\n"
    ".globl guest_reads_cost\n"
    "guest_reads_cost:\n"
    "	mov $" STR(EMUCOST_PORT_DATA) ", %edx; inl %dx, %eax; mov %eax, (%rbx)\n"
    "	mov $" STR(EMUCOST_PORT_CMD) ", %edx\n"
    "	mov $" STR(EMUCOST_CMD_LOCK) ", %eax; outl %eax, %dx\n"
    "	mov $" STR(IA32_PMC0) ", %ecx; xor %eax, %eax; xor %edx, %edx; wrmsr; rdmsr\n"
    "	xor %ecx, %ecx; rdpmc\n"
    "	vmcall\n");

#define FIXED_CYCLES	1	/* the fixed counter of core cycles */
#define FIXED_INDEX	(8 + FIXED_CYCLES)

static void run_and_count(u64 guest_ctrl, u64 host_ctrl)
{
	vmwrite(VMCS_GUEST_PERF_GLOBAL_CTRL, guest_ctrl);
	vmwrite(VMCS_HOST_PERF_GLOBAL_CTRL, host_ctrl);
	emucost_latch();
	snapshot();
	vmx_run(guest_100_nops, host_ctrl);
	emucost_latch();
}

/* Every counter's ticks have a place of their own: all of them count, one in the guest. */
static void check_ticks_of_all(void)
{
	unsigned int n, m;
	u64 bad = 0;

	vmx_controls(PIN_NMI_EXITING, 0, 0, EXIT_LOAD_PERF_GLOBAL_CTRL | EXIT_SAVE_PERF_GLOBAL_CTRL,
		     ENTRY_LOAD_PERF_GLOBAL_CTRL);
	for (n = 0; n < 64; n++) {
		if (!(GLOBAL_ALL & BIT(n)))
			continue;
		pmu_reset();
		for (m = 0; m < NR_GP; m++)
			setup_pmc(m, EV_CYCLES | SEL_OS);
		wrmsr(IA32_FIXED_CTR_CTRL, fixed_all(FIXED_OS));
		run_and_count(BIT(n), 0);
		for (m = 0; m < 64; m++)
			if (GLOBAL_ALL & BIT(m) &&
			    (!!grown(emucost_ticks(true, m)) != (m == n) || grown(emucost_ticks(false, m))))
				bad |= BIT(n);
	}
	is_u64(bad, 0, "ticks: each counter by itself, as GLOBAL_CTRL has it");
	pmu_reset();
}

/* Who counted what: nothing of the one side may count on the other. */
static void check_ticks(void)
{
	pmu_reset();
	setup_pmc(0, EV_INSNS | SEL_OS);
	setup_pmc(1, EV_INSNS | SEL_OS);
	wrmsr(IA32_FIXED_CTR_CTRL, FIXED_CTRL(FIXED_CYCLES, FIXED_OS));

	vmx_controls(PIN_NMI_EXITING, 0, 0, EXIT_LOAD_PERF_GLOBAL_CTRL | EXIT_SAVE_PERF_GLOBAL_CTRL,
		     ENTRY_LOAD_PERF_GLOBAL_CTRL);
	run_and_count(BIT(0) | BIT(32 + FIXED_CYCLES), BIT(1));
	is_u64(grown(EMUCOST_GUEST_TICKS0), 100, "ticks: the guest's counter, in the guest");
	is_u64(grown(EMUCOST_HOST_TICKS0), 0, "ticks: the guest's counter, in the host");
	is_u64(grown(EMUCOST_GUEST_TICKS0 + FIXED_INDEX), 100,
	       "ticks: the guest's fixed counter, in the guest");
	is_u64(grown(EMUCOST_HOST_TICKS0 + FIXED_INDEX), 0,
	       "ticks: the guest's fixed counter, in the host");
	is_u64(grown(EMUCOST_GUEST_TICKS0 + 1), 0, "ticks: the host's counter, in the guest");
	is_u64(grown(EMUCOST_HOST_TICKS0 + 1), VMX_HOST_INSNS,
	       "ticks: the host's counter, in the host");

	/* Without these controls a counter goes on over the border, and it shows. */
	vmx_controls(PIN_NMI_EXITING, 0, 0, 0, 0);
	run_and_count(0, BIT(1));
	is_u64(grown(EMUCOST_GUEST_TICKS0 + 1), 100,
	       "ticks: a counter that nobody switches, in the guest");
	is_u64(grown(EMUCOST_HOST_TICKS0 + 1), VMX_HOST_INSNS,
	       "ticks: a counter that nobody switches, in the host");
	pmu_reset();
}

static void check_guest(void)
{
	if (!ok(vmx_init(), "cost counters: VMX"))
		return;
	vmx_controls(PIN_NMI_EXITING, 0, 0, 0, 0);
	vmx_run(guest_100_nops, 0);
	emucost_latch();
	snapshot();
	vmx_run(guest_100_nops, 0);
	emucost_latch();
	is_u64(grown(EMUCOST_GUEST_INSNS), 100, "cost counters: the guest's instructions");
	ok(grown(EMUCOST_HOST_INSNS) > 0, "cost counters: the host's are others");
	is_u64(grown(EMUCOST_VMENTRIES), 1, "cost counters: VM-entries");
	is_u64(grown(EMUCOST_VMEXITS), 1, "cost counters: VM-exits");
	is_u64(grown(EMUCOST_EXIT_REASON0 + EXIT_REASON_VMCALL), 1,
	       "cost counters: VM-exits by reason");
	is_u64(grown(EMUCOST_EXIT_REASON0 + EXIT_REASON_CPUID), 0,
	       "cost counters: no other reason");
	/* GLOBAL_CTRL twice: before the entry and after the exit. */
	is_u64(grown(EMUCOST_HOST_WRMSR), 2, "cost counters: the host's WRMSRs");

	snapshot();
	emucost_cmd(EMUCOST_CMD_VALUE | EMUCOST_MAGIC * 2);
	vmx_run(guest_reads_cost, 0);
	is_u64(*(u32 *)scratch, ABSENT, "cost counters: absent in the guest");
	emucost_latch();
	is_u64(emucost_read(0, EMUCOST_MAGIC), EMUCOST_MAGIC_VALUE,
	       "cost counters: the guest cannot lock them");
	is_u64(grown(EMUCOST_HOST_WRMSR), 2, "cost counters: the guest's WRMSR is not the host's");
	is_u64(grown(EMUCOST_HOST_RDPMC), 0, "cost counters: the guest's RDPMC is not the host's");
	check_ticks();
	check_ticks_of_all();
	vmx_exit();
}

void test_cost(void)
{
	check_hidden();
	check_instructions();
	check_accesses();
	check_latch();
	check_pmis();
	check_guest();
	emucost_lock();
}
