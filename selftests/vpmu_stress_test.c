// SPDX-License-Identifier: GPL-2.0
/*
 * perf events are opened, used and closed at random, on all processors, while
 * guests come and go and move about, a processor goes offline and comes back,
 * and the machine is suspended and resumed. All the while, guests count exactly,
 * and so does an event of the host.
 *
 * A second by default. VPMU_STRESS_SECONDS says for how long, and
 * VPMU_STRESS_SEED where the random numbers start: an hour under a kernel with
 * lockdep and KASAN is what this is for.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <time.h>

#include "host_cgroup.h"
#include "host_cpu.h"
#include "host_event.h"
#include "host_sysctl.h"
#include "runner.h"
#include "vpmu.h"
#include "vpmu_harness.h"

/* The harness' limit is not to be in the way. */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	86400

#define NR_OPENERS	3
#define NR_GUESTS	2
#define NR_FDS		12
#define HOST_ROUNDS	20000
#define GUEST_LOOPS	20000

static unsigned long env_number(const char *name, unsigned long otherwise)
{
	const char *value = getenv(name);

	return value ? strtoul(value, NULL, 0) : otherwise;
}

/**
 * struct stress - what the threads share
 * @stop: to end it
 * @cgroup: the program's, -1 if there is none
 * @removable: the processor that goes and comes, -1 if there is none
 * @suspends: can the machine be suspended and come back by itself?
 * @life: read by whom creates or destroys a guest, written by whom suspends: a process that
 *	  is to freeze may not create one, and destroying one waits for a thread of KVM's
 *	  that may be frozen
 * @opened: events
 * @refused: events that include guests, while there are guests with a mediated PMU
 * @guests: that were created
 * @rounds: of guests, each with its counts exact
 * @measures: of the host's event, each exact
 * @hotplugs: of the processor
 * @sleeps: of the machine
 */
struct stress {
	atomic_bool stop;
	int cgroup;
	int removable;
	bool suspends;
	pthread_rwlock_t life;
	atomic_ulong opened;
	atomic_ulong refused;
	atomic_ulong guests;
	atomic_ulong rounds;
	atomic_ulong measures;
	atomic_ulong hotplugs;
	atomic_ulong sleeps;
};

/**
 * struct worker - a thread
 * @stress: what is shared
 * @seed: its random numbers
 * @thread: itself
 */
struct worker {
	struct stress *stress;
	unsigned int seed;
	pthread_t thread;
};

static unsigned int pick(struct worker *w, unsigned int n)
{
	return rand_r(&w->seed) % n;
}

static int pick_cpu(struct worker *w)
{
	return pick(w, sysconf(_SC_NPROCESSORS_ONLN));
}

static void move(struct worker *w)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(pick_cpu(w), &set);
	sched_setaffinity(0, sizeof(set), &set);
}

static struct perf_event_attr pick_attr(struct worker *w)
{
	static const struct {
		uint32_t type;
		uint32_t config;
	} events[] = {
		{ PERF_TYPE_HARDWARE, PERF_COUNT_HW_INSTRUCTIONS },
		{ PERF_TYPE_HARDWARE, PERF_COUNT_HW_CPU_CYCLES },
		{ PERF_TYPE_HARDWARE, PERF_COUNT_HW_BRANCH_INSTRUCTIONS },
		{ PERF_TYPE_RAW, 0xc5 },
		{ PERF_TYPE_SOFTWARE, PERF_COUNT_SW_TASK_CLOCK },
		{ PERF_TYPE_SOFTWARE, PERF_COUNT_SW_CONTEXT_SWITCHES },
	};
	struct perf_event_attr attr = host_event_attr();
	int i = pick(w, ARRAY_SIZE(events));

	attr.type = events[i].type;
	attr.config = events[i].config;
	attr.disabled = pick(w, 2);
	attr.inherit = pick(w, 4) == 0;
	attr.exclude_kernel = pick(w, 2);
	attr.exclude_guest = pick(w, 8) != 0;
	if (pick(w, 4) == 0)
		attr.sample_period = 100003 + pick(w, 1000000);
	return attr;
}

static int pick_open(struct worker *w, const int *fds)
{
	struct perf_event_attr attr = pick_attr(w);
	int cpu = pick_cpu(w), fd;

	switch (pick(w, 4)) {
	case 0:
		fd = host_event_open(&attr, -1, cpu);
		break;
	case 1:
		attr.inherit = 0;
		fd = cgroup_event_open(&attr, w->stress->cgroup, cpu);
		break;
	case 2:
		fd = syscall(SYS_perf_event_open, &attr, 0, -1, fds[pick(w, NR_FDS)], 0);
		break;
	default:
		fd = host_event_open(&attr, 0, pick(w, 2) ? cpu : -1);
		break;
	}
	w->stress->opened += fd >= 0;
	w->stress->refused += fd == -EOPNOTSUPP;
	return fd < 0 ? -1 : fd;
}

static void use_event(struct worker *w, int fd)
{
	struct host_count count;

	switch (pick(w, 4)) {
	case 0:
		ioctl(fd, PERF_EVENT_IOC_ENABLE, pick(w, 2) ? PERF_IOC_FLAG_GROUP : 0);
		break;
	case 1:
		ioctl(fd, PERF_EVENT_IOC_DISABLE, pick(w, 2) ? PERF_IOC_FLAG_GROUP : 0);
		break;
	case 2:
		ioctl(fd, PERF_EVENT_IOC_RESET, 0);
		break;
	default:
		count = host_event_read(fd);
		TEST_ASSERT(count.running <= count.enabled, "Enabled for %lu ns, running for %lu",
			    count.enabled, count.running);
	}
}

static void *opener_thread(void *arg)
{
	struct worker *w = arg;
	int fds[NR_FDS], i;

	memset(fds, -1, sizeof(fds));
	while (!w->stress->stop) {
		i = pick(w, NR_FDS);
		if (fds[i] < 0) {
			fds[i] = pick_open(w, fds);
		} else if (pick(w, 8)) {
			use_event(w, fds[i]);
		} else {
			close(fds[i]);
			fds[i] = -1;
		}
		if (!pick(w, 8))
			move(w);
		if (!pick(w, 4))
			usleep(pick(w, 2000));
	}
	for (i = 0; i < NR_FDS; i++) {
		if (fds[i] >= 0)
			close(fds[i]);
	}
	return NULL;
}

/* Guests with more and with less than all counters. */
static void *guest_thread(void *arg)
{
	struct vpmu_config config;
	struct worker *w = arg;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int i, rounds;

	while (!w->stress->stop) {
		config = vpmu_config_max();
		config.nr_gp -= pick(w, 2) * (config.nr_gp - 2);
		pthread_rwlock_rdlock(&w->stress->life);
		vm = counting_vm_create(&vcpu, &config, GUEST_LOOPS);
		pthread_rwlock_unlock(&w->stress->life);
		w->stress->guests++;
		rounds = 1 + pick(w, 50);
		for (i = 0; i < rounds && !w->stress->stop; i++) {
			TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_SYNC);
			w->stress->rounds++;
			if (!pick(w, 4))
				move(w);
		}
		pthread_rwlock_rdlock(&w->stress->life);
		kvm_vm_free(vm);
		pthread_rwlock_unlock(&w->stress->life);
	}
	return NULL;
}

/* A pinned event always has a counter, so that it can be held to what it counts. */
static void *accountant_thread(void *arg)
{
	struct perf_event_attr attr = host_event_attr();
	struct worker *w = arg;
	uint64_t frame, count, irqs;
	int fd;

	attr.pinned = 1;
	fd = host_event_open_ok(&attr, 0, -1);
	frame = host_loop_frame(fd);
	while (!w->stress->stop) {
		irqs = host_all_interrupts();
		count = host_loop_count(fd, HOST_ROUNDS);
		host_expect_count(count, frame + HOST_ROUNDS * HOST_LOOP_INSNS, irqs);
		w->stress->measures++;
		if (!pick(w, 4))
			move(w);
		usleep(pick(w, 2000));
	}
	close(fd);
	return NULL;
}

static void replug(struct worker *w, int cpu)
{
	TEST_ASSERT(host_cpu_set_online(cpu, false), "CPU %d doesn't go: %s", cpu, strerror(errno));
	usleep(pick(w, 20000));
	TEST_ASSERT(host_cpu_set_online(cpu, true), "CPU %d doesn't come: %s", cpu,
		    strerror(errno));
	w->stress->hotplugs++;
}

static void suspend(struct worker *w)
{
	int r;

	pthread_rwlock_wrlock(&w->stress->life);
	r = host_suspend();
	pthread_rwlock_unlock(&w->stress->life);
	/* Something that woke it, as an interrupt, or a task that doesn't freeze in time. */
	TEST_ASSERT(!r || r == -EBUSY, "The machine cannot be suspended: %s", strerror(-r));
	w->stress->sleeps += !r;
}

/* What people do to a machine: not often, so that the others get on between. */
static void *operator_thread(void *arg)
{
	struct worker *w = arg;

	while (!w->stress->stop) {
		if (w->stress->removable >= 0)
			replug(w, w->stress->removable);
		usleep(pick(w, 200000));
		if (w->stress->suspends && !pick(w, 4))
			suspend(w);
	}
	return NULL;
}

static void start(struct worker *w, struct stress *stress, unsigned int seed,
		  void *(*thread)(void *))
{
	w->stress = stress;
	w->seed = seed;
	TEST_ASSERT(!pthread_create(&w->thread, NULL, thread, w), "pthread_create() failed");
}

TEST(everything_at_random)
{
	unsigned long seconds = env_number("VPMU_STRESS_SECONDS", 1);
	unsigned int seed = env_number("VPMU_STRESS_SEED", 1);
	struct worker workers[NR_OPENERS + NR_GUESTS + 2];
	struct vpmu_config config = vpmu_config_max();
	struct stress s = { .life = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP };
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int i, nr = 0;

	VPMU_REQUIRE_MEDIATED();
	printf("# VPMU_STRESS_SECONDS=%lu VPMU_STRESS_SEED=%u\n", seconds, seed);
	/* With one guest that stays, no event can keep the others from being created. */
	vm = counting_vm_create(&vcpu, &config, GUEST_LOOPS);
	s.cgroup = cgroup_enter();
	s.removable = host_cpu_removable();
	/* Only down to where it comes back from by itself. */
	s.suspends = host_suspend_prepare("core");
	for (i = 0; i < NR_GUESTS; i++)
		start(&workers[nr++], &s, seed++, guest_thread);
	for (i = 0; i < NR_OPENERS; i++)
		start(&workers[nr++], &s, seed++, opener_thread);
	start(&workers[nr++], &s, seed++, accountant_thread);
	start(&workers[nr++], &s, seed++, operator_thread);
	while (seconds-- && !s.stop)
		sleep(1);
	s.stop = true;
	for (i = 0; i < nr; i++)
		pthread_join(workers[i].thread, NULL);
	host_suspend_restore();
	cgroup_leave(s.cgroup);
	kvm_vm_free(vm);

	printf("# %lu events opened, %lu refused, %lu guests, %lu rounds, %lu measures\n",
	       s.opened, s.refused, s.guests, s.rounds, s.measures);
	printf("# %lu hotplugs, %lu suspends\n", s.hotplugs, s.sleeps);
	TEST_ASSERT(s.opened && s.guests && s.rounds && s.measures, "Not all took part");
	TEST_ASSERT(s.removable < 0 || s.hotplugs, "No processor came and went");
}

int main(int argc, char *argv[])
{
	vpmu_require_exact();
	return test_harness_run(argc, argv);
}
