// SPDX-License-Identifier: GPL-2.0
/*
 * Random programs of PMU operations read in a guest what they read on bare
 * metal, to the last bit: counters, status, faults, and what the counters were
 * when a PMI came.
 *
 * lib/pmu_fuzz.h makes the programs. What they read on bare metal comes from
 * the same emulated machine (selftests/fuzz), as lines "program <number> <hash>"
 * in a file: $VPMU_FUZZ_BARE, or vpmu_fuzz.bare beside this program. On another
 * processor there is nothing to compare with.
 *
 *   vpmu_fuzz_test --dump <number>
 *
 * prints what one program reads, value by value, as "make DUMP=<number>" of
 * selftests/fuzz does for bare metal.
 */
#include "apic.h"
#include "host_event.h"
#include "vpmu.h"
#include "vpmu_harness.h"

#include "pmu_fuzz.h"

/* Programs between two exits to the test program. */
#define BATCH	50

static struct fuzz guest_fuzz;
static uint64_t guest_hashes[BATCH];

/* Programs @first to @first + @nr - 1. */
static void guest_run_programs(uint64_t first, uint64_t nr)
{
	uint64_t i;

	x2apic_enable();
	guest_fuzz.is_amd = host_cpu_is_amd;
	fuzz_mask_timer(&guest_fuzz);
	guest_fuzz.nr_gp = guest_nr_gp();
	guest_fuzz.nr_fixed = guest_nr_fixed();
	for (i = 0; i < nr; i++) {
		guest_hashes[i % BATCH] = fuzz_run(&guest_fuzz, first + i, FUZZ_OPS);
		if (i % BATCH == BATCH - 1)
			GUEST_SYNC(i);
	}
	GUEST_DONE();
}

static struct kvm_vm *create(struct kvm_vcpu **vcpu, uint64_t first, uint64_t nr)
{
	struct vpmu_config config = vpmu_config_max();
	struct kvm_vm *vm = vpmu_vm_create(vcpu, guest_run_programs, &config);

	/*
	 * With APICv a pending virtual interrupt goes before a PMI of the same
	 * moment, which is an external interrupt to the processor. On bare metal
	 * the two are one, or come by their vectors' priority.
	 */
	vpmu_inhibit_apicv(*vcpu);
	TEST_ASSERT_EQ(VPMU_USER_GPA, FUZZ_MMIO);
	TEST_ASSERT_EQ(VPMU_USER_PORT, FUZZ_PORT);
	vpmu_install_naked_handler(vm, GP_VECTOR, fuzz_gp_entry);
	vpmu_install_naked_handler(vm, NMI_VECTOR, fuzz_nmi_entry);
	vpmu_install_naked_handler(vm, FUZZ_PMI_VECTOR, fuzz_pmi_entry);
	vpmu_install_naked_handler(vm, FUZZ_IPI_VECTOR, fuzz_ipi_entry);
	vcpu_args_set(*vcpu, 2, first, nr);
	return vm;
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
 * struct bare - what the programs read on bare metal
 * @first: the first one's number
 * @nr: how many
 * @hashes: theirs
 */
struct bare {
	uint64_t first;
	uint64_t nr;
	uint64_t *hashes;
};

static struct bare read_bare(FILE *file)
{
	struct bare bare = {};
	uint64_t number, hash;

	while (fscanf(file, "program %lu %lx\n", &number, &hash) == 2) {
		if (!bare.nr)
			bare.first = number;
		TEST_ASSERT_EQ(number, bare.first + bare.nr);
		bare.hashes = realloc(bare.hashes, (bare.nr + 1) * sizeof(hash));
		TEST_ASSERT(bare.hashes, "Out of memory");
		bare.hashes[bare.nr++] = hash;
	}
	/* The file is complete if the last line says so. */
	TEST_ASSERT(!fscanf(file, "end%*c"), "Unreadable after program %lu", number);
	TEST_ASSERT(fgetc(file) == EOF, "Unreadable after program %lu", number);
	fclose(file);
	TEST_ASSERT(bare.nr && bare.nr % BATCH == 0, "%lu programs, want a multiple of %u",
		    bare.nr, BATCH);
	return bare;
}

/* Runs the next programs and compares; how many differ. */
static unsigned int compare_batch(struct kvm_vcpu *vcpu, const struct bare *bare, uint64_t done)
{
	const uint64_t *hashes = addr_gva2hva(vcpu->vm, (uint64_t)guest_hashes);
	unsigned int i, differ = 0;

	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_SYNC);
	for (i = 0; i < BATCH; i++) {
		if (hashes[i] == bare->hashes[done + i])
			continue;
		differ++;
		printf("# program %lu reads otherwise than on bare metal\n",
		       bare->first + done + i);
	}
	return differ;
}

TEST(as_on_bare_metal)
{
	const struct vpmu_config max = vpmu_config_max(), host = vpmu_config_host();
	FILE *file = open_bare();
	unsigned int differ = 0;
	int cpus[8], nr_cpus;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	struct bare bare;
	uint64_t done;

	if (!vpmu_is_mediated()) {
		if (file)
			fclose(file);
		SKIP(return, "needs " VPMU_MODULE_NAME);
	}
	if (!file)
		SKIP(return, "needs what bare metal reads, in vpmu_fuzz.bare");
	TEST_ASSERT(max.nr_gp == host.nr_gp && max.nr_fixed == host.nr_fixed,
		    "The guest has not all of bare metal's counters");

	bare = read_bare(file);
	nr_cpus = host_cpus(cpus, ARRAY_SIZE(cpus));
	vm = create(&vcpu, bare.first, bare.nr);
	for (done = 0; done < bare.nr; done += BATCH) {
		/* What a guest reads is the same on each CPU. */
		pin_self_to_cpu(cpus[done / BATCH % nr_cpus]);
		differ += compare_batch(vcpu, &bare, done);
	}
	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_DONE);
	kvm_vm_free(vm);
	free(bare.hashes);
	printf("# %lu programs of %u operations\n", bare.nr, FUZZ_OPS);
	TEST_ASSERT(!differ, "%u of %lu programs differ", differ, bare.nr);
}

static int dump(uint64_t number)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create(&vcpu, number, 1);
	struct fuzz *fuzz;
	uint64_t i;

	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_DONE);
	fuzz = addr_gva2hva(vm, (uint64_t)&guest_fuzz);
	for (i = 0; i < fuzz->logged; i++)
		printf("%lu %lx\n", i, fuzz->log[i]);
	kvm_vm_free(vm);
	return 0;
}

int main(int argc, char *argv[])
{
	vpmu_require_exact();
	if (argc == 3 && !strcmp(argv[1], "--dump"))
		return dump(strtoull(argv[2], NULL, 0));
	return test_harness_run(argc, argv);
}
