/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Settings of the host's kernel.
 */
#ifndef SELFTEST_HOST_SYSCTL_H
#define SELFTEST_HOST_SYSCTL_H

#include <stdbool.h>

/* The (first) number of /proc/sys/@name; returns what it was before. */
int host_sysctl_set(const char *name, int value);

/* Writes to a file of sysfs; returns 0 or -errno. */
int host_sysfs_write(const char *path, const char *text);

/*
 * Suspend to RAM as far down as /sys/power/pm_test says, "none" being all the way, and back
 * at once. host_suspend_prepare() is false where the kernel has no such tests;
 * host_suspend() returns 0 or -errno.
 */
bool host_suspend_prepare(const char *pm_test);
int host_suspend(void);
void host_suspend_restore(void);

/* The NMI watchdog, which has a perf event on each CPU. */
bool nmi_watchdog_is_available(void);
bool nmi_watchdog_is_on(void);

/* Switches it, and returns whether it was on. Where there is none, nothing happens. */
bool nmi_watchdog_set(bool on);

#endif /* SELFTEST_HOST_SYSCTL_H */
