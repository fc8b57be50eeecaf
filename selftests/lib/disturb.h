/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What happens to a thread that runs a vCPU: other CPUs, and others on its CPU.
 */
#ifndef SELFTEST_DISTURB_H
#define SELFTEST_DISTURB_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define DISTURB_MAX_CPUS	4
#define DISTURB_MAX_TIDS	4

/* The thread goes on on @cpu and nowhere else; 0 is the calling one. */
void move_to(pid_t tid, int cpu);

/* How often the calling thread lost its CPU to another. */
uint64_t preemptions(void);

/**
 * struct mover - a thread that sends others from CPU to CPU
 * @tids: whom, in turn
 * @nr_tids: how many of them
 * @cpus: where to, in turn
 * @nr_cpus: how many of them
 * @moves: moves so far
 * @stop: to end it
 */
struct mover {
	pid_t tids[DISTURB_MAX_TIDS];
	int nr_tids;
	int cpus[DISTURB_MAX_CPUS];
	int nr_cpus;
	atomic_int moves;
	atomic_bool stop;
	pthread_t thread;
};

/* Returns after the first move. */
void mover_start(struct mover *m);
void mover_stop(struct mover *m);

/**
 * struct rival - a thread that wants a CPU for itself
 * @cpu: which
 * @stop: to end it
 */
struct rival {
	int cpu;
	atomic_bool stop;
	pthread_t thread;
};

void rival_start(struct rival *r);
void rival_stop(struct rival *r);

/**
 * struct visitor - a thread that has the host count on CPUs, each time for a moment
 * @cpus: where, in turn; the thread itself is on the first of them that is not in turn
 * @nr_cpus: how many of them
 * @visits: so far
 * @stop: to end it
 * @thread: the thread
 */
struct visitor {
	int cpus[DISTURB_MAX_CPUS];
	int nr_cpus;
	atomic_int visits;
	atomic_bool stop;
	pthread_t thread;
};

/* Returns after the first visit. */
void visitor_start(struct visitor *v);
void visitor_stop(struct visitor *v);

#endif /* SELFTEST_DISTURB_H */
