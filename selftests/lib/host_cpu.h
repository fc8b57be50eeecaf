/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Processors of the host that come and go.
 */
#ifndef SELFTEST_HOST_CPU_H
#define SELFTEST_HOST_CPU_H

#include <stdbool.h>

/* Is it now as was wanted? errno says why not. */
bool host_cpu_set_online(int cpu, bool online);

/* The last one that can go; -1 if there is none but the one that stays. */
int host_cpu_removable(void);

#endif /* SELFTEST_HOST_CPU_H */
