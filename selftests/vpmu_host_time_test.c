// SPDX-License-Identifier: GPL-2.0
/*
 * The times of the host's events, while the PMU is lent to a guest.
 *
 * For a host event that excludes guests there is nothing to count while a guest has
 * the PMU. It isn't multiplexed: neither time_enabled nor time_running goes on, so
 * that its count needs no scaling. What is missing is exactly the time that the
 * guest had, whatever kind the event is of, and whoever reads it where and when: a
 * software event beside it, or in its group, for which that time goes on, tells.
 *
 * In most of these tests there is no guest: vpmu_lend.ko lends the PMU, and
 * says for how long. In the others it watches KVM do it.
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "host_cgroup.h"
#include "host_event.h"
#include "host_sysctl.h"
#include "lend.h"
#include "runner.h"
#include "vpmu.h"
#include "vpmu_harness.h"

#define LEND_NSECS	1000000
#define NR_LENDS	5
#define HOST_ROUNDS	50000

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

/**
 * struct timed - an event whose time is that of the host
 * @fd: the event
 * @leader: of its group, which enables it
 * @ref: a software event with all of the time, which is enabled first and read last
 * @slack: nanoseconds that @ref may be ahead for that
 */
struct timed {
	int fd;
	int leader;
	int ref;
	uint64_t slack;
};

static void timed_enable(struct timed *t)
{
	uint64_t begin = now();

	host_event_enable(t->ref);
	host_event_enable(t->leader);
	t->slack += now() - begin;
}

static void timed_disable(struct timed *t)
{
	uint64_t begin = now();

	host_event_disable(t->leader);
	host_event_disable(t->ref);
	t->slack += now() - begin;
}

/* The event ran all the time, but for that in which the PMU was lent. */
static void expect_lent(const struct timed *t, int fd, const struct lent *lent)
{
	uint64_t begin = now(), slack, lost;
	struct host_count c, ref;

	c = host_event_read(fd);
	ref = host_event_read(t->ref);
	slack = t->slack + now() - begin;
	lost = ref.enabled - c.enabled;

	TEST_ASSERT(c.enabled, "Not enabled at all");
	TEST_ASSERT_EQ(c.enabled, c.running);
	TEST_ASSERT(lost >= lent->shortest && lost <= lent->longest + slack,
		    "Enabled for %lu of %lu ns, but the PMU was lent for %lu to %lu ns", c.enabled,
		    ref.enabled, lent->shortest, lent->longest + slack);
}

FIXTURE(event) {
	struct lend lend;
	int cpu;
	int cgroup;
	struct timed timed;
	int sibling;
};

FIXTURE_VARIANT(event) {
	bool per_cpu;
	bool cgroup;
	bool pinned;
	bool inherit;
	bool sampling;
	bool grouped;
	bool software_leader;
};

FIXTURE_VARIANT_ADD(event, task) { };
FIXTURE_VARIANT_ADD(event, task_pinned) { .pinned = true };
FIXTURE_VARIANT_ADD(event, task_inherited) { .inherit = true };
FIXTURE_VARIANT_ADD(event, task_sampling) { .sampling = true };
FIXTURE_VARIANT_ADD(event, task_grouped) { .grouped = true };
FIXTURE_VARIANT_ADD(event, task_grouped_with_software)
{
	.grouped = true,
	.software_leader = true,
};
FIXTURE_VARIANT_ADD(event, cpu) { .per_cpu = true };
FIXTURE_VARIANT_ADD(event, cpu_pinned) { .per_cpu = true, .pinned = true };
FIXTURE_VARIANT_ADD(event, cpu_grouped) { .per_cpu = true, .grouped = true };
FIXTURE_VARIANT_ADD(event, cgroup) { .per_cpu = true, .cgroup = true };
FIXTURE_VARIANT_ADD(event, cgroup_pinned) { .per_cpu = true, .cgroup = true, .pinned = true };

static int open_event(struct perf_event_attr *attr, int pid, int cpu, int group, int flags)
{
	int fd = syscall(SYS_perf_event_open, attr, pid, cpu, group, flags);

	TEST_ASSERT(fd >= 0, "perf_event_open() failed: %s", strerror(errno));
	return fd;
}

static void open_events(FIXTURE_DATA(event) *self, const FIXTURE_VARIANT(event) *variant)
{
	struct perf_event_attr attr = host_event_attr();
	int flags = variant->cgroup ? PERF_FLAG_PID_CGROUP : 0;
	int pid = variant->per_cpu ? self->cgroup : 0;
	int cpu = variant->per_cpu ? self->cpu : -1;

	self->timed = (struct timed) {};
	attr.type = PERF_TYPE_SOFTWARE;
	attr.config = PERF_COUNT_SW_DUMMY;
	attr.inherit = variant->inherit;
	self->timed.ref = open_event(&attr, pid, cpu, -1, flags);

	attr = host_event_attr();
	attr.pinned = variant->pinned;
	attr.inherit = variant->inherit;
	attr.sample_period = variant->sampling ? 1000000007 : 0;
	if (variant->software_leader) {
		attr.type = PERF_TYPE_SOFTWARE;
		attr.config = PERF_COUNT_SW_TASK_CLOCK;
	}
	self->timed.leader = open_event(&attr, pid, cpu, -1, flags);
	self->timed.fd = self->timed.leader;
	self->sibling = -1;
	if (variant->grouped) {
		attr = host_event_attr();
		attr.disabled = 0;
		self->sibling = open_event(&attr, pid, cpu, self->timed.leader, flags);
	}
	if (variant->software_leader)
		self->timed.fd = self->sibling;
	timed_enable(&self->timed);
}

static void close_events(FIXTURE_DATA(event) *self)
{
	if (self->sibling >= 0)
		close(self->sibling);
	close(self->timed.leader);
	close(self->timed.ref);
}

FIXTURE_SETUP(event)
{
	LEND_REQUIRE();
	self->lend = lend_open();
	TEST_ASSERT_EQ(lend_create(&self->lend), 0);
	self->cpu = pin_self_to_any_cpu();
	self->cgroup = variant->cgroup ? cgroup_enter() : -1;
	open_events(self, variant);
}

FIXTURE_TEARDOWN(event)
{
	close_events(self);
	if (variant->cgroup)
		cgroup_leave(self->cgroup);
	lend_close(&self->lend);
}

/* A software event counts on, no matter what it is grouped with. */
static void expect_nothing_lost(const struct timed *t)
{
	struct host_count c = host_event_read(t->leader), ref = host_event_read(t->ref);

	TEST_ASSERT_EQ(c.enabled, c.running);
	TEST_ASSERT(ref.enabled - c.enabled <= t->slack, "Enabled for %lu of %lu ns", c.enabled,
		    ref.enabled);
	TEST_ASSERT(c.value >= c.running - t->slack && c.value <= c.running + t->slack,
		    "task-clock says %lu ns, and ran for %lu ns", c.value, c.running);
}

/* Neither enabled nor running. */
TEST_F(event, lent_time_is_left_out)
{
	struct lent lent = {};
	struct host_count c;
	int i;

	for (i = 0; i < NR_LENDS; i++) {
		host_loop(HOST_ROUNDS);
		lend_for(&self->lend, LEND_NSECS, &lent);
	}
	host_loop(HOST_ROUNDS);
	c = host_event_read(self->timed.fd);
	TEST_ASSERT(c.value, "The event did not count");
	expect_lent(&self->timed, self->timed.fd, &lent);
	timed_disable(&self->timed);
	expect_lent(&self->timed, self->timed.fd, &lent);
	if (variant->software_leader)
		expect_nothing_lost(&self->timed);
	if (self->sibling >= 0) {
		c = host_event_read(self->sibling);
		TEST_ASSERT(c.value >= (NR_LENDS + 1) * HOST_ROUNDS * HOST_LOOP_INSNS,
			    "The sibling counted %lu instructions", c.value);
		expect_lent(&self->timed, self->sibling, &lent);
	}
}

/* What the event has before it is disabled and enabled again is not touched. */
TEST_F(event, disabled_before_lent)
{
	struct host_count before, after;
	struct lent lent = {};

	host_loop(HOST_ROUNDS);
	host_event_disable(self->timed.leader);
	before = host_event_read(self->timed.fd);
	lend_for(&self->lend, LEND_NSECS, &lent);
	after = host_event_read(self->timed.fd);
	TEST_ASSERT_EQ(after.enabled, before.enabled);
	TEST_ASSERT_EQ(after.running, before.running);
	TEST_ASSERT_EQ(after.value, before.value);
	host_event_enable(self->timed.leader);
	/* The clock of a cgroup whose only event was disabled starts with the next task. */
	usleep(1000);
	host_loop(HOST_ROUNDS);
	after = host_event_read(self->timed.fd);
	TEST_ASSERT(after.enabled > before.enabled, "The event is not enabled");
	TEST_ASSERT_EQ(after.enabled - before.enabled, after.running - before.running);
}

static void wait_for(uint64_t nsecs)
{
	uint64_t end = now() + nsecs;

	while (now() < end)
		;
}

/* Reads the event twice while another CPU's PMU is lent. */
struct reader {
	struct lend *lend;
	int cpu;
	int fd;
	uint32_t inside[2];
	struct host_count counts[2];
	uint64_t waited;
	atomic_bool ready;
};

static void *reader_thread(void *arg)
{
	struct reader *r = arg;

	pin_self_to_cpu(r->cpu);
	r->ready = true;
	while (!(r->lend->page->inside & 1))
		;
	r->inside[0] = r->lend->page->inside;
	r->counts[0] = host_event_read(r->fd);
	r->waited = now();
	wait_for(LEND_NSECS);
	r->waited = now() - r->waited;
	r->counts[1] = host_event_read(r->fd);
	r->inside[1] = r->lend->page->inside;
	r->lend->page->leave = 1;
	return NULL;
}

static int other_cpu(int cpu)
{
	cpu_set_t set;
	int other;

	/* The calling thread is pinned. */
	CPU_ZERO(&set);
	for (other = 0; other < CPU_SETSIZE; other++)
		CPU_SET(other, &set);
	CPU_CLR(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set) || host_cpus(&other, 1) != 1)
		other = -1;
	pin_self_to_cpu(cpu);
	return other;
}

TEST_F(event, read_while_lent)
{
	const struct lend_run how = { .nsecs = 100000000 };
	struct reader r = { .lend = &self->lend };
	struct host_count *counts = r.counts;
	struct lent lent = {};
	pthread_t thread;

	r.cpu = other_cpu(self->cpu);
	if (r.cpu < 0)
		SKIP(return, "needs two processors");
	TEST_ASSERT(!pthread_create(&thread, NULL, reader_thread, &r), "pthread_create() failed");
	while (!r.ready)
		sched_yield();
	/* Anew, for the reader is not to inherit it. */
	close_events(self);
	open_events(self, variant);
	r.fd = self->timed.fd;
	host_loop(HOST_ROUNDS);
	lend_run(&self->lend, &how, &lent);
	pthread_join(thread, NULL);

	TEST_ASSERT(r.inside[0] == r.inside[1], "The reader had to wait for the guest to go");
	TEST_ASSERT_EQ(counts[0].value, counts[1].value);
	/* Time stands still. */
	TEST_ASSERT_EQ(counts[0].running, counts[1].running);
	TEST_ASSERT_EQ(counts[0].enabled, counts[1].enabled);
	TEST_ASSERT_EQ(counts[1].enabled, counts[1].running);
	TEST_ASSERT(r.waited >= LEND_NSECS, "The reader waited for %lu ns", r.waited);

	/* And goes on from there. */
	timed_disable(&self->timed);
	expect_lent(&self->timed, self->timed.fd, &lent);
}

/* What has been, of a cgroup that isn't running on the CPU by now. */
TEST_F(event, read_of_another_cgroup)
{
	const struct lend_run how = { .nsecs = 100000000 };
	struct reader r = { .lend = &self->lend };
	struct host_count before;
	struct lent lent = {};
	pthread_t thread;

	if (!variant->cgroup)
		SKIP(return, "of cgroups");
	r.cpu = other_cpu(self->cpu);
	if (r.cpu < 0)
		SKIP(return, "needs two processors");
	r.fd = self->timed.fd;
	host_loop(HOST_ROUNDS);
	lend_run(&self->lend, &how, NULL);
	host_loop(HOST_ROUNDS);
	cgroup_go_out();
	/* The clock has stopped. */
	usleep(1000);
	before = host_event_read(r.fd);
	TEST_ASSERT(before.enabled, "The event was never enabled");

	TEST_ASSERT(!pthread_create(&thread, NULL, reader_thread, &r), "pthread_create() failed");
	while (!r.ready)
		sched_yield();
	lend_run(&self->lend, &how, &lent);
	pthread_join(thread, NULL);
	TEST_ASSERT(r.inside[0] == r.inside[1], "The reader had to wait for the guest to go");
	TEST_ASSERT_EQ(r.counts[0].value, before.value);
	TEST_ASSERT_EQ(r.counts[0].running, before.running);
	TEST_ASSERT_EQ(r.counts[0].enabled, before.enabled);
	TEST_ASSERT_EQ(r.counts[1].enabled, before.enabled);
}

/* All of these need no more than one event, per task. */
FIXTURE(task) {
	struct lend lend;
	struct timed timed;
};

/* An event of the calling task, and one for all of its time; neither counts yet. */
static struct timed timed_open(bool inherit)
{
	struct perf_event_attr attr = host_event_attr();
	struct timed t = {};

	attr.inherit = inherit;
	t.fd = host_event_open_ok(&attr, 0, -1);
	t.leader = t.fd;
	attr.type = PERF_TYPE_SOFTWARE;
	attr.config = PERF_COUNT_SW_DUMMY;
	t.ref = host_event_open_ok(&attr, 0, -1);
	return t;
}

static void timed_close(struct timed *t)
{
	close(t->fd);
	close(t->ref);
}

FIXTURE_SETUP(task)
{
	LEND_REQUIRE();
	self->lend = lend_open();
	TEST_ASSERT_EQ(lend_create(&self->lend), 0);
	self->timed = timed_open(true);
	timed_enable(&self->timed);
}

FIXTURE_TEARDOWN(task)
{
	timed_close(&self->timed);
	lend_close(&self->lend);
}

/* Children add to what the event has, be they alive or not. */
TEST_F(task, inherited)
{
	struct lent *lent = mmap(NULL, getpagesize(), PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct host_count c;
	int i, status;
	pid_t pid;

	TEST_ASSERT(lent != MAP_FAILED, "mmap() failed");
	for (i = 0; i < 3; i++) {
		pid = fork();
		TEST_ASSERT(pid >= 0, "fork() failed");
		if (!pid) {
			host_loop(HOST_ROUNDS);
			lend_for(&self->lend, LEND_NSECS, &lent[i]);
			_exit(0);
		}
		lend_for(&self->lend, LEND_NSECS, &lent[3]);
		TEST_ASSERT_EQ(waitpid(pid, &status, 0), pid);
		TEST_ASSERT_EQ(status, 0);
	}
	timed_disable(&self->timed);
	c = host_event_read(self->timed.fd);
	for (i = 0; i < 3; i++) {
		lent[3].shortest += lent[i].shortest;
		lent[3].longest += lent[i].longest;
	}
	TEST_ASSERT(c.value >= 3 * HOST_ROUNDS * HOST_LOOP_INSNS, "Counted %lu instructions",
		    c.value);
	expect_lent(&self->timed, self->timed.fd, &lent[3]);
}

/* A task that shares the CPU with one that lends the PMU. */
struct neighbour {
	int cpu;
	struct host_count count;
	atomic_bool stop;
	atomic_int rounds;
};

static void *neighbour_thread(void *arg)
{
	struct perf_event_attr attr = host_event_attr();
	struct neighbour *n = arg;
	int fd;

	pin_self_to_cpu(n->cpu);
	fd = host_event_open_ok(&attr, 0, -1);
	host_event_enable(fd);
	while (!n->stop) {
		host_loop(HOST_ROUNDS);
		n->rounds++;
		sched_yield();
	}
	n->count = host_event_read(fd);
	close(fd);
	return NULL;
}

TEST_F(task, switched)
{
	struct neighbour n = { .cpu = pin_self_to_any_cpu() };
	struct lent lent = {};
	struct timed timed;
	pthread_t thread;
	int i;

	/* One that isn't inherited. */
	timed_disable(&self->timed);
	timed = timed_open(false);
	timed_enable(&timed);

	TEST_ASSERT(!pthread_create(&thread, NULL, neighbour_thread, &n),
		    "pthread_create() failed");
	for (i = 0; i < 20 || n.rounds < 20; i++) {
		host_loop(HOST_ROUNDS);
		lend_for(&self->lend, LEND_NSECS / 4, &lent);
		sched_yield();
	}
	n.stop = true;
	pthread_join(thread, NULL);
	expect_lent(&timed, timed.fd, &lent);
	/* What another task lends is not the neighbour's time at all. */
	TEST_ASSERT(n.count.enabled, "The neighbour never ran");
	TEST_ASSERT_EQ(n.count.enabled, n.count.running);
	timed_close(&timed);
}

TEST_F(task, moved)
{
	struct lent lent = {};
	struct host_count c;
	int cpus[2], i;

	if (host_cpus(cpus, 2) < 2)
		SKIP(return, "needs two processors");
	for (i = 0; i < 10; i++) {
		pin_self_to_cpu(cpus[i % 2]);
		host_loop(HOST_ROUNDS);
		lend_for(&self->lend, LEND_NSECS / 2, &lent);
	}
	timed_disable(&self->timed);
	c = host_event_read(self->timed.fd);
	TEST_ASSERT(c.value >= 10 * HOST_ROUNDS * HOST_LOOP_INSNS, "Counted %lu instructions",
		    c.value);
	expect_lent(&self->timed, self->timed.fd, &lent);
}

/*
 * More events than counters. The host does the same amount of work per time
 * whenever an event runs, so that all see the same rate, lent time or not.
 */
#define NR_MULTIPLEXED	14
#define MAX_PERIODS	200
/* Long against what rotation and lending cost themselves, on a debug kernel, too. */
#define PERIOD_ROUNDS	(40 * HOST_ROUNDS)
#define ROTATION_FILE	"/sys/bus/event_source/devices/cpu/perf_event_mux_interval_ms"
#define ROTATION_MS	20
/* An event had several turns. */
#define LEAST_RUNNING	(4 * ROTATION_MS * 1000000ull)

/* How often events take turns; returns what it was before. */
static int set_rotation(int ms)
{
	FILE *file = fopen(ROTATION_FILE, "r");
	char text[16];
	int before, r;

	TEST_ASSERT(file && fscanf(file, "%d", &before) == 1, "Cannot read %s", ROTATION_FILE);
	fclose(file);
	snprintf(text, sizeof(text), "%d", ms);
	r = host_sysfs_write(ROTATION_FILE, text);
	TEST_ASSERT(!r, "Cannot write %s to %s: %s", text, ROTATION_FILE, strerror(-r));
	return before;
}

static bool all_ran(const int *fds, uint64_t least)
{
	int i;

	for (i = 0; i < NR_MULTIPLEXED; i++) {
		if (host_event_read(fds[i]).running < least)
			return false;
	}
	return true;
}

static void test_multiplexed(struct lend *lend, int pid, int cpu)
{
	struct perf_event_attr attr = host_event_attr();
	uint64_t host, total, nr_running = 0;
	int fds[NR_MULTIPLEXED], rotation, i;
	struct lent lent = {};
	struct host_count c;

	rotation = set_rotation(ROTATION_MS);
	attr.disabled = 0;
	for (i = 0; i < NR_MULTIPLEXED; i++)
		fds[i] = host_event_open_ok(&attr, pid, cpu);
	total = 0;
	host = now();
	for (i = 0; i < MAX_PERIODS && !all_ran(fds, LEAST_RUNNING); i++) {
		host_loop(PERIOD_ROUNDS);
		total += PERIOD_ROUNDS * HOST_LOOP_INSNS;
		lend_for(lend, LEND_NSECS, &lent);
	}
	host = now() - host - lent.longest;
	TEST_ASSERT(i < MAX_PERIODS, "There are events that hardly ran");
	for (i = 0; i < NR_MULTIPLEXED; i++) {
		c = host_event_read(fds[i]);
		nr_running += c.running;
		/* What was lent isn't among the time that it was enabled for. */
		TEST_ASSERT(c.enabled >= c.running && c.enabled < host + lent.shortest / 2,
			    "Enabled for %lu ns, running for %lu ns, of %lu ns of the host",
			    c.enabled, c.running, host);
		/* Scaled, the count is what the host did, within a quarter. */
		TEST_ASSERT(c.value * (c.enabled / 1000) / (c.running / 1000) > total - total / 4 &&
			    c.value * (c.enabled / 1000) / (c.running / 1000) < total + total / 4,
			    "%lu instructions, %lu of %lu ns, of %lu", c.value, c.running,
			    c.enabled, total);
		/* count / running = total / host, within a quarter */
		TEST_ASSERT(c.value * host / total > c.running - c.running / 4 &&
			    c.value * host / total < c.running + c.running / 4,
			    "%lu instructions in %lu ns, of %lu in %lu ns", c.value, c.running,
			    total, host);
		close(fds[i]);
	}
	set_rotation(rotation);
	TEST_ASSERT(nr_running > 4 * host, "Of %d events less than 4 ran at a time",
		    NR_MULTIPLEXED);
}

TEST_F(task, multiplexed)
{
	timed_disable(&self->timed);
	test_multiplexed(&self->lend, 0, -1);
}

TEST_F(task, multiplexed_on_cpu)
{
	timed_disable(&self->timed);
	test_multiplexed(&self->lend, -1, pin_self_to_any_cpu());
}

/* The real thing: KVM lends the PMU, and is watched. */
#define GUEST_LOOPS	100000

static struct lent watch_stop(struct lend *lend)
{
	struct lend_watch watch = lend_watch_stop(lend);

	TEST_ASSERT(watch.loads, "The PMU was never lent");
	return (struct lent) { .shortest = watch.shortest, .longest = watch.longest };
}

static struct kvm_vcpu *create_guest(void)
{
	struct vpmu_config config = vpmu_config_max();
	struct kvm_vcpu *vcpu;

	counting_vm_create(&vcpu, &config, GUEST_LOOPS);
	return vcpu;
}

/* The task of a vCPU, which moves between processors. */
TEST_F(task, moved_vcpu)
{
	const struct lend_watch what = { .tgid = getpid() };
	int cpus[2], nr = host_cpus(cpus, 2), i;
	struct timed timed = timed_open(false);
	struct kvm_vcpu *vcpu;
	struct lent lent;

	VPMU_REQUIRE_MEDIATED();
	vcpu = create_guest();
	lend_watch_start(&self->lend, &what);
	timed_enable(&timed);
	for (i = 0; i < 10; i++) {
		if (nr > 1)
			pin_self_to_cpu(cpus[i % 2]);
		vpmu_run(vcpu);
	}
	timed_disable(&timed);
	lent = watch_stop(&self->lend);
	expect_lent(&timed, timed.fd, &lent);
	timed_close(&timed);
	kvm_vm_free(vcpu->vm);
}

/* ... which others want to run on, too. */
TEST_F(task, switched_vcpu)
{
	const struct lend_watch what = { .tgid = getpid() };
	struct neighbour n = { .cpu = pin_self_to_any_cpu() };
	struct timed timed = timed_open(false);
	struct kvm_vcpu *vcpu;
	struct lent lent;
	pthread_t thread;
	int i;

	VPMU_REQUIRE_MEDIATED();
	vcpu = create_guest();
	TEST_ASSERT(!pthread_create(&thread, NULL, neighbour_thread, &n),
		    "pthread_create() failed");
	lend_watch_start(&self->lend, &what);
	timed_enable(&timed);
	for (i = 0; i < 20 || n.rounds < 20; i++)
		vpmu_run(vcpu);
	timed_disable(&timed);
	lent = watch_stop(&self->lend);
	n.stop = true;
	pthread_join(thread, NULL);
	expect_lent(&timed, timed.fd, &lent);
	TEST_ASSERT_EQ(n.count.enabled, n.count.running);
	timed_close(&timed);
	kvm_vm_free(vcpu->vm);
}

/* A process that is killed while its guest runs leaves the times behind. */
TEST_F(task, killed_vcpu)
{
	struct lend_watch what = {};
	int ready[2], go[2], status;
	struct kvm_vcpu *vcpu;
	struct lent lent;
	char byte = 0;

	VPMU_REQUIRE_MEDIATED();
	TEST_ASSERT(!pipe(ready) && !pipe(go), "pipe() failed");
	what.tgid = fork();
	TEST_ASSERT(what.tgid >= 0, "fork() failed");
	if (!what.tgid) {
		vcpu = create_guest();
		TEST_ASSERT_EQ(write(ready[1], &byte, 1), 1);
		TEST_ASSERT_EQ(read(go[0], &byte, 1), 1);
		for (;;)
			vpmu_run(vcpu);
	}
	TEST_ASSERT_EQ(read(ready[0], &byte, 1), 1);
	lend_watch_start(&self->lend, &what);
	TEST_ASSERT_EQ(write(go[1], &byte, 1), 1);
	usleep(50000);
	kill(what.tgid, SIGKILL);
	TEST_ASSERT_EQ(waitpid(what.tgid, &status, 0), what.tgid);
	lent = watch_stop(&self->lend);
	timed_disable(&self->timed);
	expect_lent(&self->timed, self->timed.fd, &lent);
}

int main(int argc, char *argv[])
{
	vpmu_require_exact();
	return test_harness_run(argc, argv);
}
