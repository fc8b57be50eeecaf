// SPDX-License-Identifier: GPL-2.0
/*
 * What happens to a thread that runs a vCPU.
 */
#include <sched.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "disturb.h"
#include "host_event.h"
#include "kvm_util.h"

void move_to(pid_t tid, int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	TEST_ASSERT(!sched_setaffinity(tid, sizeof(set), &set), "sched_setaffinity() failed");
}

uint64_t preemptions(void)
{
	struct rusage usage;

	TEST_ASSERT(!getrusage(RUSAGE_THREAD, &usage), "getrusage() failed");
	return usage.ru_nivcsw;
}

static void *mover_thread(void *arg)
{
	struct mover *m = arg;
	int n;

	while (!m->stop) {
		/* Back only after the other thread has really moved. */
		n = m->moves / m->nr_tids;
		move_to(m->tids[m->moves % m->nr_tids], m->cpus[n % m->nr_cpus]);
		m->moves++;
		usleep(500);
	}
	return NULL;
}

void mover_start(struct mover *m)
{
	m->stop = false;
	TEST_ASSERT(!pthread_create(&m->thread, NULL, mover_thread, m),
		    "pthread_create() failed");
	while (!m->moves)
		sched_yield();
}

void mover_stop(struct mover *m)
{
	m->stop = true;
	pthread_join(m->thread, NULL);
}

static void *rival_thread(void *arg)
{
	struct rival *r = arg;

	move_to(0, r->cpu);
	while (!r->stop)
		;
	return NULL;
}

void rival_start(struct rival *r)
{
	r->stop = false;
	TEST_ASSERT(!pthread_create(&r->thread, NULL, rival_thread, r),
		    "pthread_create() failed");
}

void rival_stop(struct rival *r)
{
	r->stop = true;
	pthread_join(r->thread, NULL);
}

/* By a call from another processor, whatever that one is doing. */
static void visit(int cpu)
{
	struct perf_event_attr attr = host_event_attr();
	int fd;

	attr.exclude_kernel = 0;
	attr.disabled = 0;
	attr.pinned = host_has_agent();
	fd = host_event_open_ok(&attr, -1, cpu);
	close(fd);
}

static void *visitor_thread(void *arg)
{
	struct visitor *v = arg;
	unsigned int seed = 1;
	int cpu;

	while (!v->stop) {
		cpu = v->visits % v->nr_cpus;
		move_to(0, v->cpus[(cpu + 1) % v->nr_cpus]);
		visit(v->cpus[cpu]);
		v->visits++;
		usleep(rand_r(&seed) % 200);
	}
	return NULL;
}

void visitor_start(struct visitor *v)
{
	v->stop = false;
	v->visits = 0;
	TEST_ASSERT(!pthread_create(&v->thread, NULL, visitor_thread, v),
		    "pthread_create() failed");
	while (!v->visits)
		usleep(100);
}

void visitor_stop(struct visitor *v)
{
	v->stop = true;
	pthread_join(v->thread, NULL);
}
