// SPDX-License-Identifier: GPL-2.0
/*
 * Processors of the host that come and go.
 */
#include <errno.h>
#include <stdio.h>

#include "host_cpu.h"
#include "host_event.h"
#include "host_sysctl.h"

#define MAX_CPUS	64

bool host_cpu_set_online(int cpu, bool online)
{
	char path[64];
	int r;

	snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/online", cpu);
	r = host_sysfs_write(path, online ? "1" : "0");
	errno = -r;
	return !r;
}

int host_cpu_removable(void)
{
	int cpus[MAX_CPUS], nr = host_cpus(cpus, MAX_CPUS);

	if (nr < 2 || !host_cpu_set_online(cpus[nr - 1], true))
		return -1;
	return cpus[nr - 1];
}
