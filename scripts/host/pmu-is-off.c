// SPDX-License-Identifier: GPL-2.0
/*
 * Is the PMU of each processor off: no counter enabled, neither by itself nor globally? For
 * a kernel that has used none yet. Speaks TAP.
 *
 * On the first processor it has: the NMI watchdog tries an event out there, even if it is
 * off, by which Intel's PMU is enabled globally from then on. How it was before, the kernel
 * has looked at itself, and complains of a counter that is on.
 */
#include <cpuid.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SELECTOR_ENABLE	(1ull << 22)

static int nr, nr_failed;

static uint64_t read_msr(int cpu, uint32_t msr)
{
	uint64_t value;
	char path[32];
	int fd;

	snprintf(path, sizeof(path), "/dev/cpu/%d/msr", cpu);
	fd = open(path, O_RDONLY);
	if (fd < 0 || pread(fd, &value, sizeof(value), msr) != sizeof(value)) {
		printf("Bail out! cannot read MSR %x of CPU %d\n", msr, cpu);
		exit(1);
	}
	close(fd);
	return value;
}

static void result(int cpu, const char *what, uint64_t is_not)
{
	printf("%sok %d CPU %d: %s\n", is_not ? "not " : "", ++nr, cpu, what);
	if (is_not)
		printf("# %llx\n", (unsigned long long)is_not);
	nr_failed += !!is_not;
}

static int is_amd(void)
{
	uint32_t eax, ebx, ecx, edx;

	__cpuid(0, eax, ebx, ecx, edx);
	return ebx == signature_AMD_ebx;
}

static void check_intel(int cpu)
{
	uint64_t enabled = 0;
	int i;

	if (cpu)
		result(cpu, "IA32_PERF_GLOBAL_CTRL is 0", read_msr(cpu, 0x38f));
	result(cpu, "IA32_FIXED_CTR_CTRL is 0", read_msr(cpu, 0x38d));
	for (i = 0; i < 8; i++)
		enabled |= (read_msr(cpu, 0x186 + i) & SELECTOR_ENABLE) >> 22 << i;
	result(cpu, "no IA32_PERFEVTSELx is on", enabled);
}

static void check_amd(int cpu)
{
	uint64_t enabled = 0;
	int i;

	/* Of the global control AMD's driver has seen to when it brought the CPU up. */
	for (i = 0; i < 6; i++)
		enabled |= (read_msr(cpu, 0xc0010200 + 2 * i) & SELECTOR_ENABLE) >> 22 << i;
	result(cpu, "no PERF_CTL is on", enabled);
}

int main(void)
{
	long cpu, nr_cpus = sysconf(_SC_NPROCESSORS_ONLN);

	printf("TAP version 13\n");
	for (cpu = 0; cpu < nr_cpus; cpu++) {
		if (is_amd())
			check_amd(cpu);
		else
			check_intel(cpu);
	}
	result(0, "there are others, where guests ran", nr_cpus < 2);
	printf("1..%d\n", nr);
	return nr_failed != 0;
}
