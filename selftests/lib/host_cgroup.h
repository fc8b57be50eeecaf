/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A cgroup to count the events of.
 */
#ifndef SELFTEST_HOST_CGROUP_H
#define SELFTEST_HOST_CGROUP_H

#include <linux/perf_event.h>

/* Moves the calling process to a new cgroup; returns its file descriptor. */
int cgroup_enter(void);

/* Moves it back to the root. */
void cgroup_go_out(void);

/* The same, and all is gone. */
void cgroup_leave(int cgroup);

/* perf_event_open() for a cgroup; the new file descriptor or -errno. */
int cgroup_event_open(struct perf_event_attr *attr, int cgroup, int cpu);

#endif /* SELFTEST_HOST_CGROUP_H */
