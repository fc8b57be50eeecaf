// SPDX-License-Identifier: GPL-2.0
/*
 * What perf's own hot paths cost, in instructions of the host, counted by the
 * emulator. Says nothing about guests: it is to be run on two kernels, to
 * compare them.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cost.h"
#include "host_cgroup.h"
#include "host_event.h"
#include "kvm_util.h"

#define MAX_EVENTS	4
#define ROUNDS		401
/* Of a loop that is a bit longer than an event's period. */
#define SAMPLE_PERIOD	20000
#define SAMPLE_ROUNDS	(SAMPLE_PERIOD / HOST_LOOP_INSNS + 50)

/* What there is to be done with. */
struct bench {
	int cpu;
	int fds[MAX_EVENTS];
	int to_peer, from_peer;
};

/* To the other task and back: two context switches, and two system calls each. */
static void call_switch(void *arg)
{
	struct bench *b = arg;
	char byte = 0;

	if (write(b->to_peer, &byte, 1) != 1 || read(b->from_peer, &byte, 1) != 1)
		exit(KSFT_FAIL);
}

static void call_toggle(void *arg)
{
	struct bench *b = arg;

	host_event_disable(b->fds[0]);
	host_event_enable(b->fds[0]);
}

static void call_read(void *arg)
{
	struct bench *b = arg;

	host_event_read(b->fds[0]);
}

/* An overflow, or two. */
static void call_sample(void *arg)
{
	host_loop(SAMPLE_ROUNDS);
}

static void call_open(void *arg)
{
	struct perf_event_attr attr = host_event_attr();

	close(host_event_open_ok(&attr, 0, -1));
}

static void peer(int from, int to)
{
	char byte;

	while (read(from, &byte, 1) == 1) {
		if (write(to, &byte, 1) != 1)
			break;
	}
	_exit(0);
}

/* Before there is any event, so that none is inherited. */
static pid_t start_peer(struct bench *b)
{
	int there[2], back[2];
	pid_t pid;

	TEST_ASSERT(!pipe(there) && !pipe(back), "pipe() failed");
	pid = fork();
	TEST_ASSERT(pid >= 0, "fork() failed");
	if (!pid) {
		close(there[1]);
		close(back[0]);
		peer(there[0], back[1]);
	}
	close(there[0]);
	close(back[1]);
	b->to_peer = there[1];
	b->from_peer = back[0];
	return pid;
}

/**
 * struct row - one path
 * @name: its name
 * @call: that takes it
 * @insns: of the call that are not perf's
 * @nr_events: that there are meanwhile
 * @type: of these
 * @per_cpu: these are the CPU's, not the task's
 * @cgroup: ... and a cgroup's, that only the calling task is in
 * @period: of these
 */
static const struct row {
	const char *name;
	void (*call)(void *arg);
	uint64_t insns;
	int nr_events;
	int type;
	bool per_cpu;
	bool cgroup;
	uint64_t period;
} rows[] = {
	{ "switch-0-events", call_switch },
	{ "switch-1-event", call_switch, .nr_events = 1 },
	{ "switch-4-events", call_switch, .nr_events = 4 },
	{ "switch-1-cpu-event", call_switch, .nr_events = 1, .per_cpu = true },
	{ "switch-4-cpu-events", call_switch, .nr_events = 4, .per_cpu = true },
	{ "switch-4-software-events", call_switch, .nr_events = 4, .type = PERF_TYPE_SOFTWARE },
	{ "switch-1-cgroup-event", call_switch, .nr_events = 1, .cgroup = true },
	{ "disable-enable", call_toggle, .nr_events = 1 },
	{ "disable-enable-1-of-4", call_toggle, .nr_events = 4 },
	{ "disable-enable-cpu-event", call_toggle, .nr_events = 1, .per_cpu = true },
	{ "read", call_read, .nr_events = 1 },
	{ "read-cpu-event", call_read, .nr_events = 1, .per_cpu = true },
	{ "overflow", call_sample, .insns = SAMPLE_ROUNDS * HOST_LOOP_INSNS, .nr_events = 1,
	  .period = SAMPLE_PERIOD },
	{ "open-close", call_open },
};

static int open_event(struct bench *b, const struct row *row, int cgroup)
{
	struct perf_event_attr attr = host_event_attr();
	int fd;

	attr.disabled = 0;
	attr.type = row->type;
	attr.sample_period = row->period;
	if (!row->cgroup)
		return host_event_open_ok(&attr, row->per_cpu ? -1 : 0, row->per_cpu ? b->cpu : -1);

	fd = cgroup_event_open(&attr, cgroup, b->cpu);
	TEST_ASSERT(fd >= 0, "perf_event_open() failed: %s", strerror(-fd));
	return fd;
}

static int compare_costs(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

/*
 * The usual one: what the scheduler does in a switch depends on the time, so that
 * there is a cheaper one now and then, and a dearer one, too.
 */
static uint64_t median_cost(struct bench *b, const struct row *row)
{
	uint64_t costs[ROUNDS];
	int i;

	for (i = 0; i < ROUNDS; i++)
		costs[i] = cost_host_insns(b->cpu, 1, row->call, b);
	qsort(costs, ROUNDS, sizeof(costs[0]), compare_costs);
	return costs[ROUNDS / 2];
}

static uint64_t measure(struct bench *b, const struct row *row)
{
	int i, cgroup = row->cgroup ? cgroup_enter() : -1;
	uint64_t cost;

	for (i = 0; i < row->nr_events; i++)
		b->fds[i] = open_event(b, row, cgroup);
	cost = median_cost(b, row);
	for (i = 0; i < row->nr_events; i++)
		close(b->fds[i]);
	if (row->cgroup)
		cgroup_leave(cgroup);
	return cost - row->insns;
}

int main(void)
{
	struct bench b = {};
	unsigned int i;
	pid_t pid;

	if (!cost_is_available()) {
		fprintf(stderr, "There are no cost counters here.\n");
		return KSFT_SKIP;
	}
	b.cpu = pin_self_to_any_cpu();
	pid = start_peer(&b);
	for (i = 0; i < ARRAY_SIZE(rows); i++)
		printf("%-26s %8lu\n", rows[i].name, measure(&b, &rows[i]));
	close(b.to_peer);
	waitpid(pid, NULL, 0);
	return KSFT_PASS;
}
