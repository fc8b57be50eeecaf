// SPDX-License-Identifier: GPL-2.0
/* RDPMC: which counters there are, and who may read them. */
#include "conf.h"

static void check_values(void)
{
	unsigned int n;
	u64 bad = 0;

	pmu_reset();
	for (n = 0; n < pmu->nr_counters; n++)
		write_pmc(n, 0x123456789000 + n);
	for (n = 0; n < pmu->nr_counters; n++)
		if (rdpmc(n) != 0x123456789000 + n)
			bad |= BIT(n);
	is_u64(bad, 0, "RDPMC reads all 48 bits of each counter");
}

static void check_fixed_values(void)
{
	unsigned int n;
	u64 bad = 0;

	for_each_fixed(n)
		wrmsr(IA32_FIXED_CTR0 + n, 0xfedcba987000 + n);
	for_each_fixed(n)
		if (rdpmc(RDPMC_FIXED | n) != 0xfedcba987000 + n)
			bad |= BIT(n);
	is_u64(bad, 0, "RDPMC reads all 48 bits of each fixed counter");
}

static void check_indices(void)
{
	const u32 *index;
	u64 value;

	for (index = pmu->invalid_rdpmc; *index; index++)
		ok(rdpmc_safe(*index, &value) == VEC_GP, "RDPMC: #GP for index %x", *index);
	is_u64(last_fault_error, 0, "RDPMC: error code 0");
}

static volatile u64 user_vector, user_value;

static void user_rdpmc(void)
{
	u64 value;

	user_vector = rdpmc_safe(0, &value);
	user_value = value;
	asm volatile("int $" STR(VEC_LEAVE_USER));
}

static void user_rdpmc_invalid(void)
{
	u64 value;

	user_vector = rdpmc_safe(pmu->invalid_rdpmc[0], &value);
	asm volatile("int $" STR(VEC_LEAVE_USER));
}

static void run_user(void (*fn)(void))
{
	enter_user(fn, user_stack + sizeof(user_stack) - 8);
}

void test_rdpmc(void)
{
	check_values();
	if (pmu->fixed_counters)
		check_fixed_values();
	check_indices();
	set_gate(VEC_LEAVE_USER, leave_user);
	write_pmc(0, 0x4711);
	write_cr(4, read_cr(4) & ~CR4_PCE);
	run_user(user_rdpmc);
	is_u64(user_vector, VEC_GP, "RDPMC: #GP in user mode with CR4.PCE 0");
	write_cr(4, read_cr(4) | CR4_PCE);
	run_user(user_rdpmc);
	ok(!user_vector && user_value == 0x4711, "RDPMC: works in user mode with CR4.PCE 1");
	run_user(user_rdpmc_invalid);
	is_u64(user_vector, VEC_GP, "RDPMC: #GP in user mode for an invalid index");
	write_cr(4, read_cr(4) & ~CR4_PCE);
	is_u64(rdpmc(0), 0x4711, "RDPMC: works in the kernel with CR4.PCE 0");
	pmu_reset();
}
