// SPDX-License-Identifier: GPL-2.0
/*
 * Random programs of PMU operations read in a guest what they read on bare
 * metal, to the last bit: counters, status, faults, and what the counters were
 * when a PMI came.
 *
 * lib/pmu_fuzz.h makes the programs. What they read on bare metal comes from
 * the same emulated machine (selftests/fuzz), as lines "program <number>
 * <left out> <left out> <hash>" in a file: $VPMU_FUZZ_BARE, or vpmu_fuzz.bare
 * beside this program. On another processor there is nothing to compare with.
 * Behind "late <instructions>" are programs for PMIs that come late
 * (lib/pmu_fuzz_late.h).
 *
 *   vpmu_fuzz_test --values
 *
 * compares nothing, but prints each value that the file's programs read, as
 * "make VALUES=1" of selftests/fuzz has bare metal do.
 */
#include <sys/syscall.h>

#include "apic.h"
#include "cost.h"
#include "disturb.h"
#include "host_event.h"
#include "host_sysctl.h"
#include "vpmu.h"
#include "vpmu_harness.h"

#include "pmu_fuzz.h"

/* Programs between two exits to the test program. */
#define BATCH		16
/* What of a program's log is kept, all of most programs'. */
#define KEPT		1024

/* Instructions of the host between two of its PMIs. */
#define HOST_PERIOD	10007

static struct fuzz guest_fuzz;
static struct fuzz_program guest_programs[BATCH];

/**
 * struct result - what a program read
 * @hash: all of it in a number
 * @log: the first of it
 */
static struct result {
	uint64_t hash;
	uint64_t log[KEPT];
} guest_results[BATCH];

static void guest_run_program(uint64_t i)
{
	struct result *result = &guest_results[i];

	result->hash = fuzz_run(&guest_fuzz, &guest_programs[i]);
	memcpy(result->log, guest_fuzz.log,
	       min_t(uint64_t, guest_fuzz.logged, KEPT) * sizeof(*result->log));
}

/* The test program puts the next ones in place each time. */
static void guest_run_programs(uint64_t nr, uint64_t late)
{
	uint64_t i;

	x2apic_enable();
	guest_fuzz.late = late;
	guest_fuzz.is_amd = host_cpu_is_amd;
	fuzz_mask_timer(&guest_fuzz);
	guest_fuzz.nr_gp = guest_nr_gp();
	guest_fuzz.nr_fixed = guest_nr_fixed();
	for (;;) {
		for (i = 0; i < nr; i++)
			guest_run_program(i);
		GUEST_SYNC(0);
	}
}

/*
 * Which of the guests runs the batch that begins with program @number: the one whose PMU goes
 * to rest as it does by default, or the one that has it do so whenever nothing can count.
 */
enum { PATIENT, IMPATIENT, NR_GUESTS };

static unsigned int which_guest(uint64_t number)
{
	return number / BATCH % NR_GUESTS;
}

/* Its guest runs @batch programs at a time, whose PMIs may be so @late. */
static struct kvm_vm *create(struct kvm_vcpu **vcpu, uint64_t batch, uint64_t late,
			     unsigned int which)
{
	const unsigned int rest_after = vpmu_rest_after(1);
	struct vpmu_config config = vpmu_config_max();
	struct kvm_vm *vm;

	if (which == PATIENT)
		vpmu_rest_after(rest_after);
	vm = vpmu_vm_create(vcpu, guest_run_programs, &config);
	vpmu_rest_after(rest_after);

	/*
	 * With APICv a pending virtual interrupt goes before a PMI of the same
	 * moment, which is an external interrupt to the processor. On bare metal
	 * the two are one, or come by their vectors' priority.
	 */
	vpmu_inhibit_apicv(*vcpu);
	TEST_ASSERT_EQ(VPMU_USER_GPA, FUZZ_MMIO);
	TEST_ASSERT_EQ(VPMU_USER_PORT, FUZZ_PORT);
	vpmu_install_naked_handler(vm, GP_VECTOR, fuzz_gp_entry);
	vpmu_install_naked_handler(vm, NMI_VECTOR, late ? fuzz_late_nmi_entry : fuzz_nmi_entry);
	vpmu_install_naked_handler(vm, FUZZ_PMI_VECTOR,
				   late ? fuzz_late_pmi_entry : fuzz_pmi_entry);
	vpmu_install_naked_handler(vm, FUZZ_IPI_VECTOR, fuzz_ipi_entry);
	vcpu_args_set(*vcpu, 2, batch, late);
	return vm;
}

static void run_batch(struct kvm_vcpu *vcpu, const struct fuzz_program *programs, uint64_t nr)
{
	memcpy(addr_gva2hva(vcpu->vm, (uint64_t)guest_programs), programs, nr * sizeof(*programs));
	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_SYNC);
}

static FILE *open_bare(void)
{
	const char *path = getenv("VPMU_FUZZ_BARE");
	static char beside[PATH_MAX];
	ssize_t len;
	char *slash;

	if (path)
		return fopen(path, "r");
	len = readlink("/proc/self/exe", beside, sizeof(beside) - 32);
	slash = len > 0 ? memrchr(beside, '/', len) : NULL;
	if (!slash)
		return NULL;
	strcpy(slash, "/vpmu_fuzz.bare");
	return fopen(beside, "r");
}

/**
 * struct bare - what programs read on bare metal
 * @late: by how many instructions a PMI may be late
 * @nr: how many
 * @programs: which
 * @hashes: what each read
 */
struct bare {
	uint64_t late;
	uint64_t nr;
	struct fuzz_program *programs;
	uint64_t *hashes;
};

static void add(struct bare *bare, const struct fuzz_program *program, uint64_t hash)
{
	const uint64_t nr = bare->nr + 1;

	bare->programs = realloc(bare->programs, nr * sizeof(*program));
	bare->hashes = realloc(bare->hashes, nr * sizeof(hash));
	TEST_ASSERT(bare->programs && bare->hashes, "Out of memory");
	bare->programs[bare->nr] = *program;
	bare->hashes[bare->nr] = hash;
	bare->nr = nr;
}

static struct bare read_bare(FILE *file)
{
	struct bare bare = {};
	bool complete = false;
	char line[65536];

	while (fgets(line, sizeof(line), file)) {
		struct fuzz_program program;
		uint64_t hash;

		/* What bare metal prints last. */
		complete = !strcmp(line, "end\n");
		sscanf(line, "late %lu", &bare.late);
		if (sscanf(line, "program %lu %lx %lx %lx", &program.number, &program.without[0],
			   &program.without[1], &hash) == 4)
			add(&bare, &program, hash);
	}
	fclose(file);
	TEST_ASSERT(complete && bare.nr, "It ends after %lu programs", bare.nr);
	return bare;
}

static void free_bare(struct bare *bare)
{
	free(bare->programs);
	free(bare->hashes);
}

/*
 * A program that reads otherwise may do so once in a while only, as where it takes a PMI
 * of a certain lateness. Runs it once more: if it reads what it has to now, tells which
 * values of @result are not what they have to be.
 */
static void tell_values(struct kvm_vcpu *vcpu, const struct bare *bare, uint64_t nr,
			const struct result *result)
{
	const struct fuzz *fuzz = addr_gva2hva(vcpu->vm, (uint64_t)&guest_fuzz);
	const struct fuzz_program again[BATCH] = { [BATCH - 1] = bare->programs[nr] };
	uint64_t i;

	run_batch(vcpu, again, BATCH);
	if (fuzz_hash(fuzz) != bare->hashes[nr])
		return;
	for (i = 0; i < fuzz->logged && i < KEPT; i++)
		if (result->log[i] != fuzz->log[i])
			printf("# value %lu was %lx, should be %lx\n", i, result->log[i],
			       fuzz->log[i]);
}

/* How many programs from @first on are one batch. */
static uint64_t batch_size(const struct bare *bare, uint64_t first)
{
	const struct fuzz_program *programs = bare->programs + first;
	uint64_t nr = 1;

	while (nr < BATCH && first + nr < bare->nr &&
	       which_guest(programs[nr].number) == which_guest(programs[0].number))
		nr++;
	return nr;
}

/* Runs @nr programs from @first on and compares; how many differ. */
static unsigned int compare_batch(struct kvm_vcpu * const *vcpus, const struct bare *bare,
				  uint64_t first, uint64_t nr)
{
	const struct fuzz_program *programs = bare->programs + first;
	struct kvm_vcpu *vcpu = vcpus[which_guest(programs->number)];
	struct result *results = malloc(sizeof(guest_results));
	unsigned int i, differ = 0;

	TEST_ASSERT(results, "Out of memory");
	/* The last batch may be smaller; what follows in it are earlier ones. */
	run_batch(vcpu, programs, nr);
	memcpy(results, addr_gva2hva(vcpu->vm, (uint64_t)guest_results), sizeof(guest_results));
	for (i = 0; i < nr; i++) {
		if (results[i].hash == bare->hashes[first + i])
			continue;
		differ++;
		printf("# program %lu %lx %lx reads otherwise than on bare metal\n",
		       programs[i].number, programs[i].without[0], programs[i].without[1]);
		tell_values(vcpu, bare, first + i, &results[i]);
	}
	free(results);
	return differ;
}

FIXTURE(bare_metal)
{
	struct bare bare;
	int cpus[DISTURB_MAX_CPUS];
	int nr_cpus;
	struct kvm_vcpu *vcpus[NR_GUESTS];
	struct kvm_vm *vms[NR_GUESTS];
};

FIXTURE_SETUP(bare_metal)
{
	const struct vpmu_config max = vpmu_config_max(), host = vpmu_config_host();
	FILE *file = open_bare();
	unsigned int i;

	if (!vpmu_is_mediated()) {
		if (file)
			fclose(file);
		SKIP(return, "needs " VPMU_MODULE_NAME);
	}
	if (!file)
		SKIP(return, "needs what bare metal reads, in vpmu_fuzz.bare");
	TEST_ASSERT(max.nr_gp == host.nr_gp && max.nr_fixed == host.nr_fixed,
		    "The guest has not all of bare metal's counters");
	self->bare = read_bare(file);
	TEST_ASSERT(!cost_is_available() || cost_pmi_delay() <= self->bare.late,
		    "PMIs are later here than on bare metal");
	self->nr_cpus = host_cpus(self->cpus, ARRAY_SIZE(self->cpus));
	for (i = 0; i < NR_GUESTS; i++)
		self->vms[i] = create(&self->vcpus[i], BATCH, self->bare.late, i);
}

FIXTURE_TEARDOWN(bare_metal)
{
	unsigned int i;

	for (i = 0; i < NR_GUESTS; i++)
		kvm_vm_free(self->vms[i]);
	free_bare(&self->bare);
}

static void expect_no_difference(const struct bare *bare, unsigned int differ)
{
	printf("# %lu programs of %u operations\n", bare->nr, FUZZ_OPS);
	TEST_ASSERT(!differ, "%u of %lu programs differ", differ, bare->nr);
}

/*
 * What a guest reads is the same on each CPU, be its state taken out of hardware at each
 * exit, or parked there where the host has no event.
 */
TEST_F(bare_metal, on_each_cpu)
{
	const bool watchdog = nmi_watchdog_is_on();
	unsigned int differ = 0, rounds = 0;
	uint64_t done, nr;

	for (done = 0; done < self->bare.nr; done += nr) {
		if (rounds % NR_GUESTS == 0) {
			pin_self_to_cpu(self->cpus[rounds / NR_GUESTS % self->nr_cpus]);
			nmi_watchdog_set(rounds / NR_GUESTS / self->nr_cpus % 2 && watchdog);
		}
		rounds++;
		nr = batch_size(&self->bare, done);
		differ += compare_batch(self->vcpus, &self->bare, done, nr);
	}
	nmi_watchdog_set(watchdog);
	expect_no_difference(&self->bare, differ);
}

/*
 * And while the host needs the hardware now and then, in the middle of anything, or the
 * guest is moved.
 */
TEST_F(bare_metal, visited)
{
	struct visitor visitor = { .nr_cpus = self->nr_cpus };
	struct mover mover = { .nr_tids = 1, .tids = { syscall(SYS_gettid) } };
	unsigned int differ = 0;
	uint64_t done, nr;
	bool watchdog;

	if (self->nr_cpus < 2)
		SKIP(return, "needs two CPUs");
	watchdog = nmi_watchdog_set(false);
	memcpy(visitor.cpus, self->cpus, sizeof(visitor.cpus));
	memcpy(mover.cpus, self->cpus, sizeof(mover.cpus));
	mover.nr_cpus = self->nr_cpus;
	visitor_start(&visitor);
	mover_start(&mover);
	for (done = 0; done < self->bare.nr; done += nr) {
		nr = batch_size(&self->bare, done);
		differ += compare_batch(self->vcpus, &self->bare, done, nr);
	}
	mover_stop(&mover);
	visitor_stop(&visitor);
	nmi_watchdog_set(watchdog);
	printf("# visited %d times, moved %d times\n", visitor.visits, mover.moves);
	expect_no_difference(&self->bare, differ);
}

/* An event that counts and samples the host on @cpu. */
static int sample_host(int cpu)
{
	struct perf_event_attr attr = host_event_attr();
	int fd;

	attr.exclude_kernel = 0;
	attr.sample_period = HOST_PERIOD;
	fd = host_event_open_ok(&attr, -1, cpu);
	host_event_enable(fd);
	return fd;
}

/* And while the host counts, too, and moves the guest in the midst of a program. */
TEST_F(bare_metal, disturbed)
{
	struct mover mover = { .nr_tids = 1, .tids = { syscall(SYS_gettid) } };
	int i, fds[DISTURB_MAX_CPUS];
	unsigned int differ = 0;
	uint64_t done, nr;

	if (self->nr_cpus < 2)
		SKIP(return, "needs two CPUs");
	for (i = 0; i < self->nr_cpus; i++) {
		fds[i] = sample_host(self->cpus[i]);
		mover.cpus[i] = self->cpus[i];
	}
	mover.nr_cpus = self->nr_cpus;
	mover_start(&mover);
	for (done = 0; done < self->bare.nr; done += nr) {
		nr = batch_size(&self->bare, done);
		differ += compare_batch(self->vcpus, &self->bare, done, nr);
	}
	mover_stop(&mover);
	for (i = 0; i < self->nr_cpus; i++) {
		TEST_ASSERT(host_event_read(fds[i]).value, "The host's event did not count");
		close(fds[i]);
	}
	printf("# moved %d times\n", mover.moves);
	expect_no_difference(&self->bare, differ);
}

/* As selftests/fuzz prints them. */
static void print_values(struct kvm_vcpu *vcpu, const struct fuzz_program *program)
{
	struct fuzz *fuzz = addr_gva2hva(vcpu->vm, (uint64_t)&guest_fuzz);
	uint64_t i;

	run_batch(vcpu, program, 1);
	printf("program %lu %lx %lx %lx\n", program->number, program->without[0],
	       program->without[1], fuzz_hash(fuzz));
	for (i = 0; i < fuzz->logged; i++)
		printf("value %lu %lx\n", i, fuzz->log[i]);
}

static int print_all_values(void)
{
	FILE *file = open_bare();
	struct kvm_vcpu *vcpus[NR_GUESTS];
	struct kvm_vm *vms[NR_GUESTS];
	struct bare bare;
	uint64_t i;

	TEST_ASSERT(file, "No file that says which programs");
	bare = read_bare(file);
	for (i = 0; i < NR_GUESTS; i++)
		vms[i] = create(&vcpus[i], 1, bare.late, i);
	for (i = 0; i < bare.nr; i++)
		print_values(vcpus[which_guest(bare.programs[i].number)], &bare.programs[i]);
	for (i = 0; i < NR_GUESTS; i++)
		kvm_vm_free(vms[i]);
	free_bare(&bare);
	return 0;
}

int main(int argc, char *argv[])
{
	vpmu_require_exact();
	if (argc == 2 && !strcmp(argv[1], "--values"))
		return print_all_values();
	return test_harness_run(argc, argv);
}
