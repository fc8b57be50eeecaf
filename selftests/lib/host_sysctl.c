// SPDX-License-Identifier: GPL-2.0
/*
 * Settings of the host's kernel.
 */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "host_sysctl.h"
#include "kvm_util.h"

#define PATH_LEN	64

int host_sysctl_set(const char *name, int value)
{
	char path[PATH_LEN], text[32] = {};
	int fd, before, len;

	snprintf(path, sizeof(path), "/proc/sys/%s", name);
	fd = open(path, O_RDWR | O_CLOEXEC);
	TEST_ASSERT(fd >= 0 && pread(fd, text, sizeof(text) - 1, 0) > 0, "Cannot read %s", path);
	before = atoi(text);
	len = snprintf(text, sizeof(text), "%d", value);
	TEST_ASSERT(pwrite(fd, text, len, 0) == len, "Cannot write %d to %s: %s", value, path,
		    strerror(errno));
	close(fd);
	return before;
}

int host_sysfs_write(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), r = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, text, strlen(text)) < 0)
		r = -errno;
	close(fd);
	return r;
}

#define PM_TEST		"/sys/power/pm_test"
#define PM_STATE	"/sys/power/state"
#define PM_TEST_DELAY	"/sys/module/suspend/parameters/pm_test_delay"

bool host_suspend_prepare(const char *pm_test)
{
	if (host_sysfs_write(PM_TEST, pm_test))
		return false;
	host_sysfs_write(PM_TEST_DELAY, "0");
	return true;
}

int host_suspend(void)
{
	return host_sysfs_write(PM_STATE, "mem");
}

void host_suspend_restore(void)
{
	host_sysfs_write(PM_TEST_DELAY, "5");
	host_sysfs_write(PM_TEST, "none");
}

bool nmi_watchdog_is_available(void)
{
	return !access("/proc/sys/kernel/nmi_watchdog", R_OK | W_OK);
}

bool nmi_watchdog_is_on(void)
{
	FILE *file = fopen("/proc/sys/kernel/nmi_watchdog", "r");
	int on = 0;

	if (file && fscanf(file, "%d", &on) != 1)
		on = 0;
	if (file)
		fclose(file);
	return on;
}

bool nmi_watchdog_set(bool on)
{
	return nmi_watchdog_is_available() && host_sysctl_set("kernel/nmi_watchdog", on);
}
