// SPDX-License-Identifier: GPL-2.0
/*
 * A cgroup to count the events of.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "host_cgroup.h"
#include "kvm_util.h"

#define CGROUP_ROOT	"/tmp/vpmu_selftest.cgroup"
#define CGROUP		CGROUP_ROOT "/test"

static void cgroup_move_self(const char *path)
{
	int fd = open(path, O_WRONLY);

	TEST_ASSERT(fd >= 0, "No %s: %s", path, strerror(errno));
	TEST_ASSERT(write(fd, "0", 1) == 1, "Cannot write to %s: %s", path, strerror(errno));
	close(fd);
}

int cgroup_enter(void)
{
	int fd;

	/* A test that failed may have left it. */
	rmdir(CGROUP);
	umount(CGROUP_ROOT);
	mkdir(CGROUP_ROOT, 0700);
	/* Version 2 has perf's controller only once any other was enabled. */
	if (mount("none", CGROUP_ROOT, "cgroup", 0, "perf_event"))
		mount("none", CGROUP_ROOT, "cgroup2", 0, NULL);
	mkdir(CGROUP, 0700);
	cgroup_move_self(CGROUP "/cgroup.procs");
	fd = open(CGROUP, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	TEST_ASSERT(fd >= 0, "No cgroup: %s", strerror(errno));
	return fd;
}

void cgroup_go_out(void)
{
	cgroup_move_self(CGROUP_ROOT "/cgroup.procs");
}

void cgroup_leave(int cgroup)
{
	close(cgroup);
	cgroup_go_out();
	rmdir(CGROUP);
	umount(CGROUP_ROOT);
	rmdir(CGROUP_ROOT);
}

int cgroup_event_open(struct perf_event_attr *attr, int cgroup, int cpu)
{
	int fd = syscall(SYS_perf_event_open, attr, cgroup, cpu, -1,
			 PERF_FLAG_PID_CGROUP | PERF_FLAG_FD_CLOEXEC);

	return fd < 0 ? -errno : fd;
}
