/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A guest that counts a loop round after round, and a thread that runs a guest.
 */
#ifndef SELFTEST_RUNNER_H
#define SELFTEST_RUNNER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "vpmu.h"

/*
 * A VM with one vCPU, whose guest counts @loops loops of one instruction on all of
 * its counters, has to find each count exact, and syncs; and once more.
 */
struct kvm_vm *counting_vm_create(struct kvm_vcpu **vcpu, const struct vpmu_config *config,
				  uint64_t loops);

/**
 * struct runner - a thread that runs a vCPU
 * @vcpu: the vCPU, whose guest syncs after each round
 * @cpu: where; from where it is taken, it goes back to as soon as it can
 * @rounds: so far
 * @stop: to end it
 * @thread: the thread
 */
struct runner {
	struct kvm_vcpu *vcpu;
	int cpu;
	atomic_int rounds;
	atomic_bool stop;
	pthread_t thread;
};

/* Returns after the first round: the guest is known to run and to count. */
void runner_start(struct runner *r);
/* Returns after @nr more. */
void runner_wait(struct runner *r, int nr);
void runner_stop(struct runner *r);

#endif /* SELFTEST_RUNNER_H */
