// SPDX-License-Identifier: GPL-2.0
/*
 * A guest that counts, and a thread that runs a guest.
 */
#include <sched.h>
#include <unistd.h>

#include "payload.h"
#include "runner.h"

/* The argument is how many loops there are, which retire one branch each. */
DEFINE_PAYLOAD(loops,
	"mov %%r10, %%rcx\n\t"
	"1: loop 1b\n\t",
	1, 0);

static void guest_count_loops(uint64_t loops)
{
	unsigned int i;
	uint64_t on;

	for (;;) {
		on = guest_select_all();
		payload_loops.run(vpmu_msr_global_ctrl(), on, loops);
		for (i = 0; i < guest_nr_gp(); i++)
			GUEST_ASSERT_EQ(_rdpmc(i), i % 2 ? loops : payload_loops.insns + loops);
		guest_fixed0_expect(payload_loops.insns + loops);
		GUEST_SYNC(0);
	}
}

struct kvm_vm *counting_vm_create(struct kvm_vcpu **vcpu, const struct vpmu_config *config,
				  uint64_t loops)
{
	struct kvm_vm *vm = vpmu_vm_create(vcpu, guest_count_loops, config);

	vcpu_args_set(*vcpu, 1, loops);
	return vm;
}

/* A CPU that is not there, or not there yet, is no error. */
static void prefer_cpu(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

static void *runner_thread(void *arg)
{
	struct runner *r = arg;

	pin_self_to_cpu(r->cpu);
	while (!r->stop) {
		TEST_ASSERT_EQ(vpmu_run(r->vcpu), VPMU_SYNC);
		r->rounds++;
		prefer_cpu(r->cpu);
	}
	return NULL;
}

void runner_start(struct runner *r)
{
	TEST_ASSERT(!pthread_create(&r->thread, NULL, runner_thread, r),
		    "pthread_create() failed");
	runner_wait(r, 1);
}

void runner_wait(struct runner *r, int nr)
{
	int rounds = r->rounds + nr;

	while (r->rounds < rounds)
		usleep(1000);
}

void runner_stop(struct runner *r)
{
	r->stop = true;
	pthread_join(r->thread, NULL);
}
