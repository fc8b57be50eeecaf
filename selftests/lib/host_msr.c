// SPDX-License-Identifier: GPL-2.0
/*
 * MSRs of the host's processors, by the msr driver.
 */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "host_msr.h"
#include "kvm_util.h"

static int open_msrs(int cpu, int flags)
{
	char path[32];

	snprintf(path, sizeof(path), "/dev/cpu/%d/msr", cpu);
	return open(path, flags | O_CLOEXEC);
}

static int open_msrs_ok(int cpu, int flags)
{
	int fd = open_msrs(cpu, flags);

	TEST_ASSERT(fd >= 0, "Cannot open the MSRs of CPU %d: %s", cpu, strerror(errno));
	return fd;
}

bool host_msr_is_available(int cpu)
{
	int fd = open_msrs(cpu, O_RDONLY);

	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

uint64_t host_msr_read(int cpu, uint32_t msr)
{
	int fd = open_msrs_ok(cpu, O_RDONLY);
	uint64_t value;

	TEST_ASSERT(pread(fd, &value, sizeof(value), msr) == sizeof(value),
		    "Cannot read MSR %x of CPU %d: %s", msr, cpu, strerror(errno));
	close(fd);
	return value;
}

void host_msr_write(int cpu, uint32_t msr, uint64_t value)
{
	int fd = open_msrs_ok(cpu, O_WRONLY);

	TEST_ASSERT(pwrite(fd, &value, sizeof(value), msr) == sizeof(value),
		    "Cannot write MSR %x of CPU %d: %s", msr, cpu, strerror(errno));
	close(fd);
}
