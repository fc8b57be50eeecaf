// SPDX-License-Identifier: GPL-2.0
/* pmu-cpuid: what CPUID says of the PMU: of either vendor's leaf its registers. */
#include <cpuid.h>
#include <stdio.h>

static void print_leaf(unsigned int leaf)
{
	unsigned int eax = 0, ebx = 0, ecx = 0, edx = 0;

	__get_cpuid_count(leaf, 0, &eax, &ebx, &ecx, &edx);
	printf("%08x %08x %08x %08x %08x\n", leaf, eax, ebx, ecx, edx);
}

int main(void)
{
	print_leaf(0xa);
	print_leaf(0x80000022);
	return 0;
}
