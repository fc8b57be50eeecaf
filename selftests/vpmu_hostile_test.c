// SPDX-License-Identifier: GPL-2.0
/*
 * Hostile user space: whatever sequence of ioctls it makes of KVM's PMU, it gets
 * the error that KVM's ABI has for each, what was accepted is read back, and
 * guests that come after count exactly.
 *
 * The sequences are random and can be repeated:
 *
 *   vpmu_hostile_test [seed=<number>] [cases=<number>]
 *
 * Each case has a seed of its own. One that fails prints it, and what it did;
 * seed=<that> cases=1 does it again. That nothing complains in the kernel's log
 * is for who runs the program to see.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#include "apic.h"
#include "host_event.h"
#include "host_msr.h"
#include "host_sysctl.h"
#include "vpmu.h"
#include "vpmu_harness.h"
#include "vpmu_model.h"

#define APIC_LVTPC	0x340

#define DEFAULT_SEED	1
#define DEFAULT_CASES	150
#define NR_ACTIONS	40

/* How often a case looks whether guests and the host still count. */
#define CASES_PER_CHECK	25
#define HOST_ROUNDS	10000

static uint64_t first_seed = DEFAULT_SEED;
static uint64_t nr_cases = DEFAULT_CASES;

/* --- what a case did, to be printed if it fails */

#define MAX_LINES	256

static char history[MAX_LINES][128];
static unsigned int nr_lines;
static uint64_t running_seed;

__attribute__((format(printf, 1, 2)))
static void note(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(history[nr_lines++ % MAX_LINES], sizeof(history[0]), fmt, ap);
	va_end(ap);
}

/* A test that fails exits wherever it is. */
static void print_history(void)
{
	unsigned int i = nr_lines > MAX_LINES ? nr_lines - MAX_LINES : 0;

	if (!running_seed)
		return;
	printf("# seed=%lu cases=1 did:\n", running_seed);
	for (; i < nr_lines; i++)
		printf("#   %s\n", history[i % MAX_LINES]);
	fflush(stdout);
}

/* --- the guest: does what it is told, and tells what came of it */

#define MAX_POKES	16

enum poke_kind {
	POKE_RDMSR,
	POKE_WRMSR,
	POKE_RDPMC,
	NR_POKE_KINDS,
};

static const char * const poke_names[] = { "RDMSR", "WRMSR", "RDPMC" };

/**
 * struct poke - an instruction of the guest
 * @kind: which
 * @index: its ECX
 * @value: what it writes, or has read
 * @vector: of its fault
 */
struct poke {
	enum poke_kind kind;
	uint32_t index;
	uint64_t value;
	uint8_t vector;
};

static struct {
	uint32_t nr;
	struct poke pokes[MAX_POKES];
} program;

/* Interrupts that LVTPC may be told to raise. */
static const uint8_t pmi_vectors[] = { 0x20, 0x52, 0xef, 0xff };

static void guest_interrupt(struct ex_regs *regs)
{
	x2apic_write_reg(APIC_EOI, 0);
}

static void guest_nmi(struct ex_regs *regs)
{
}

static void guest_do(struct poke *p)
{
	if (p->kind == POKE_WRMSR)
		p->vector = wrmsr_safe(p->index, p->value);
	else if (p->kind == POKE_RDMSR)
		p->vector = rdmsr_safe(p->index, &p->value);
	else
		p->vector = rdpmc_safe(p->index, &p->value);
}

static void guest_poke(void)
{
	uint32_t i;

	for (;;) {
		x2apic_enable();
		sti();
		for (i = 0; i < program.nr; i++)
			guest_do(&program.pokes[i]);
		GUEST_SYNC(0);
	}
}

/* Another guest, which is none of the hostile program's business. */
DEFINE_LOOP_PAYLOAD(cpuid,
	"xor %%eax, %%eax\n\t"
	"cpuid\n\t",
	2, 0);

static void guest_plain(void)
{
	const struct payload *p = &payload_cpuid;
	unsigned int i;

	p->run(vpmu_msr_global_ctrl(), guest_select_all(), 0);
	for (i = 0; i < guest_nr_gp(); i++)
		GUEST_ASSERT_EQ(_rdpmc(i), i % 2 ? p->branches : p->insns);
	guest_fixed0_expect(p->insns);
	GUEST_ASSERT_EQ(rdmsr(vpmu_msr_global_status()), 0);
	GUEST_DONE();
}

/* --- the registers */

/* The PMU's, and what no guest has of PEBS. */
#define MAX_MSRS	(VPMU_MAX_MSRS + 3)

static uint32_t msrs[MAX_MSRS];
static unsigned int nr_msrs;
static bool is_mediated;

static void list_msrs(void)
{
	nr_msrs = vpmu_list_msrs(msrs);
	/* KVM's own vPMU has PEBS where the processor has it; what that takes is not of interest. */
	if (!is_mediated)
		return;
	msrs[nr_msrs++] = MSR_IA32_PEBS_ENABLE;
	msrs[nr_msrs++] = MSR_IA32_DS_AREA;
	msrs[nr_msrs++] = MSR_PEBS_DATA_CFG;
}

/* --- a case */

/**
 * struct hostile - a virtual machine, and what is known of it
 * @rng: random numbers
 * @vm: the machine
 * @vcpu: its vCPU
 * @copy: another one, to restore to
 * @model: the PMU of @vcpu
 * @capabilities: its IA32_PERF_CAPABILITIES
 * @disabled: the machine has no PMU, by KVM_CAP_PMU_CAPABILITY
 * @wild: what the guest does no longer is its program
 * @denied_msr: KVM_X86_SET_MSR_FILTER denies it
 * @denied: which accesses
 * @created: vCPUs that exist, by their number
 * @values: what the registers hold, in the order of msrs[]
 */
struct hostile {
	struct guest_random_state rng;
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	struct kvm_vcpu *copy;
	struct vpmu_model model;
	uint64_t capabilities;
	bool disabled;
	bool wild;
	uint32_t denied_msr;
	uint32_t denied;
	uint32_t created;
	uint64_t values[MAX_MSRS];
};

static uint32_t pick(struct hostile *h, uint32_t n)
{
	return guest_random_u32(&h->rng) % n;
}

static uint64_t pick_u64(struct hostile *h)
{
	return guest_random_u64(&h->rng);
}

static bool has_run(struct hostile *h)
{
	return vcpu_get_stat(h->vcpu, exits);
}

static uint64_t *value_of(struct hostile *h, uint32_t msr)
{
	unsigned int i;

	for (i = 0; i < nr_msrs; i++) {
		if (msrs[i] == msr)
			return &h->values[i];
	}
	TEST_FAIL("MSR %x is not listed", msr);
	return NULL;
}

/* The vCPU has got another PMU, in its RESET state. */
static void refreshed(struct hostile *h)
{
	struct vpmu_register reg;
	unsigned int i;

	h->model = (struct vpmu_model) {};
	if (!h->disabled)
		h->model = vpmu_model_of(h->vcpu, h->capabilities);
	for (i = 0; i < nr_msrs; i++) {
		vpmu_model_register(&h->model, msrs[i], &reg);
		h->values[i] = reg.reset;
	}
}

/* What comes of an access. */
enum verdict {
	REFUSED,
	TAKEN,
	OPEN,
};

static const char * const verdict_names[] = { "refused", "taken", "either" };

/* KVM takes 0 for what it has listed, whether the vCPU has it or not; so it reads. */
static enum verdict absent_verdict(struct hostile *h, uint32_t msr, uint64_t value)
{
	if (vpmu_model_is_ancient(&h->model, msr))
		return TAKEN;
	return !value && kvm_msr_is_in_save_restore_list(msr) ? TAKEN : REFUSED;
}

static enum verdict bits_verdict(const struct vpmu_bits *bits, uint64_t value)
{
	if (value & ~(bits->valid | bits->open))
		return REFUSED;
	return value & bits->open ? OPEN : TAKEN;
}

static enum verdict write_verdict(struct hostile *h, uint32_t msr, uint64_t value)
{
	struct vpmu_register reg;

	if (!vpmu_model_register(&h->model, msr, &reg))
		return absent_verdict(h, msr, value);
	return bits_verdict(&reg.host, value);
}

static uint64_t pick_value(struct hostile *h, uint32_t msr)
{
	struct vpmu_register reg;

	vpmu_model_register(&h->model, msr, &reg);
	switch (pick(h, 8)) {
	case 0:
		return 0;
	case 1:
		return -1ull;
	case 2:
		return BIT_ULL(pick(h, 64));
	case 3:
		return pick_u64(h);
	case 4:
		/* About to overflow. */
		return reg.kept - pick(h, 64);
	case 5:
		return (pick_u64(h) & reg.host.valid) | BIT_ULL(pick(h, 64));
	default:
		return pick_u64(h) & reg.host.valid;
	}
}

static uint32_t pick_msr(struct hostile *h)
{
	return msrs[pick(h, nr_msrs)];
}

static void wrote(struct hostile *h, uint32_t msr, uint64_t value)
{
	struct vpmu_register reg;

	if (vpmu_model_register(&h->model, msr, &reg))
		*value_of(h, vpmu_msr_alias(msr)) = value & reg.kept;
}

/* Each register reads what is known of it, and what isn't there doesn't. */
static void expect_value(struct hostile *h, struct kvm_vcpu *vcpu, uint32_t msr)
{
	const uint64_t expected = *value_of(h, vpmu_msr_alias(msr));
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entry;
	} get = { .header.nmsrs = 1, .entry.index = msr };
	struct vpmu_register reg;
	int r = __vcpu_ioctl(vcpu, KVM_GET_MSRS, &get.header);

	if (!vpmu_model_register(&h->model, msr, &reg)) {
		TEST_ASSERT(r == (absent_verdict(h, msr, 0) == TAKEN), "MSR %x, which is absent: %d",
			    msr, r);
		TEST_ASSERT(!get.entry.data, "MSR %x, which is absent, reads %llx", msr,
			    get.entry.data);
		return;
	}
	TEST_ASSERT_EQ(r, 1);
	TEST_ASSERT(get.entry.data == expected, "MSR %x reads %llx, expected %lx", msr,
		    get.entry.data, expected);
}

static void expect_values(struct hostile *h, struct kvm_vcpu *vcpu)
{
	unsigned int i;

	for (i = 0; i < nr_msrs; i++)
		expect_value(h, vcpu, msrs[i]);
}

/* After the guest has run its registers are its own affair, but for their bits. */
static void learn_values(struct hostile *h)
{
	struct vpmu_register reg;
	unsigned int i;

	for (i = 0; i < nr_msrs; i++) {
		if (!vpmu_model_register(&h->model, msrs[i], &reg))
			continue;
		h->values[i] = vcpu_get_msr(h->vcpu, msrs[i]);
		TEST_ASSERT(!(h->values[i] & ~reg.kept), "MSR %x reads %lx, of which are valid %lx",
			    msrs[i], h->values[i], reg.kept);
	}
}

/* An ioctl's result against the errno that it is to fail with, 0 for none. */
static void expect_errno(int r, int expected)
{
	int error = r < 0 ? errno : 0;

	note("    -> %s", strerror(error));
	TEST_ASSERT(error == expected, "%s, expected %s", strerror(error), strerror(expected));
}

/* --- what a case does */

static void do_set_msr(struct hostile *h)
{
	uint32_t msr = pick_msr(h);
	uint64_t value = pick_value(h, msr);
	enum verdict expected = write_verdict(h, msr, value);
	int r;

	note("KVM_SET_MSRS %x = %lx: %s", msr, value, verdict_names[expected]);
	r = _vcpu_set_msr(h->vcpu, msr, value);
	TEST_ASSERT(r == 0 || r == 1, "KVM_SET_MSRS: %d", r);
	TEST_ASSERT(expected == OPEN || r == (expected == TAKEN), "MSR %x = %lx was %s", msr,
		    value, verdict_names[r]);
	if (r)
		wrote(h, msr, value);
	expect_value(h, h->vcpu, msr);
}

/* One that is refused is where the ioctl ends. */
static void do_set_msrs(struct hostile *h)
{
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entries[16];
	} set = {};
	struct kvm_msr_entry *e;
	int expected = 0, i, r;

	set.header.nmsrs = pick(h, ARRAY_SIZE(set.entries) + 1);
	for (i = 0; i < set.header.nmsrs; i++) {
		e = &set.entries[i];
		e->index = pick_msr(h);
		e->data = pick_value(h, e->index);
		if (write_verdict(h, e->index, e->data) == OPEN)
			e->data = 0;
		note("KVM_SET_MSRS [%d] %x = %llx", i, e->index, e->data);
		if (expected < i || write_verdict(h, e->index, e->data) == REFUSED)
			continue;
		wrote(h, e->index, e->data);
		expected++;
	}
	r = __vcpu_ioctl(h->vcpu, KVM_SET_MSRS, &set.header);
	TEST_ASSERT(r == expected, "KVM_SET_MSRS took %d of %u, expected %d", r,
		    set.header.nmsrs, expected);
}

static void do_get_msrs(struct hostile *h)
{
	note("KVM_GET_MSRS");
	expect_values(h, h->vcpu);
}

static void do_bad_memory(struct hostile *h)
{
	static struct kvm_msrs many_msrs = { .nmsrs = 256 };
	static struct kvm_cpuid2 many_leaves = { .nent = 257 };
	void *nowhere = (void *)8ul;

	note("ioctls with nothing behind the pointer, or too much");
	expect_errno(__vcpu_ioctl(h->vcpu, KVM_GET_MSRS, (struct kvm_msrs *)nowhere), EFAULT);
	expect_errno(__vcpu_ioctl(h->vcpu, KVM_SET_MSRS, (struct kvm_msrs *)nowhere), EFAULT);
	expect_errno(__vcpu_ioctl(h->vcpu, KVM_SET_CPUID2, (struct kvm_cpuid2 *)nowhere), EFAULT);
	expect_errno(__vm_ioctl(h->vm, KVM_SET_PMU_EVENT_FILTER,
				(struct kvm_pmu_event_filter *)nowhere), EFAULT);
	expect_errno(__vcpu_ioctl(h->vcpu, KVM_GET_MSRS, &many_msrs), E2BIG);
	expect_errno(__vcpu_ioctl(h->vcpu, KVM_SET_MSRS, &many_msrs), E2BIG);
	expect_errno(__vcpu_ioctl(h->vcpu, KVM_SET_CPUID2, &many_leaves), E2BIG);
}

static bool has_pdcm(struct hostile *h)
{
	return kvm_cpu_has(X86_FEATURE_PDCM) && vcpu_cpuid_has(h->vcpu, X86_FEATURE_PDCM);
}

static uint64_t pick_capabilities(struct hostile *h)
{
	/* A machine without PMU has what KVM's own vPMU has. */
	const uint64_t max = h->disabled ? PMU_CAP_FW_WRITES : vpmu_capabilities_max();

	switch (pick(h, 4)) {
	case 0:
		return 0;
	case 1:
		return PMU_CAP_FW_WRITES;
	case 2:
		/* One that nobody has. */
		return pick_u64(h) | BIT_ULL(63);
	default:
		return max;
	}
}

static bool takes_capabilities(struct hostile *h, uint64_t value)
{
	if (has_run(h))
		return value == (has_pdcm(h) ? h->capabilities : 0);
	if (!has_pdcm(h))
		return !value;
	return !(value & BIT_ULL(63));
}

static void do_set_capabilities(struct hostile *h)
{
	uint64_t value = pick_capabilities(h);
	bool expected = takes_capabilities(h, value);
	int r;

	note("KVM_SET_MSRS PERF_CAPABILITIES = %lx: %s", value, verdict_names[expected]);
	r = _vcpu_set_msr(h->vcpu, MSR_IA32_PERF_CAPABILITIES, value);
	TEST_ASSERT(r == expected, "PERF_CAPABILITIES = %lx was %s", value, verdict_names[!!r]);
	if (!r || !has_pdcm(h) || value == h->capabilities)
		return;
	h->capabilities = value;
	refreshed(h);
}

/* Without asking KVM for it again. */
static struct kvm_cpuid_entry2 *leaf_of(struct kvm_cpuid2 *cpuid, uint32_t function)
{
	return (struct kvm_cpuid_entry2 *)get_cpuid_entry(cpuid, function, 0);
}

static void randomize_intel(struct hostile *h, struct kvm_cpuid2 *cpuid)
{
	struct kvm_cpuid_entry2 *leaf = leaf_of(cpuid, 0xa);
	static const uint8_t versions[] = { 2, 2, 2, 2, 1, 0, 5, 255 };
	static const uint8_t widths[] = { 48, 48, 48, 32, 33, 40, 47, 64, 255, 0, 1, 8 };
	/* With counters too narrow, each instruction is an interrupt for KVM's own vPMU. */
	const unsigned int nr_widths = ARRAY_SIZE(widths) - (is_mediated ? 0 : 3);
	const uint32_t all = pick(h, 2) * 255;

	leaf->eax = versions[pick(h, ARRAY_SIZE(versions))] |
		    (pick(h, VPMU_MAX_GP + 2) | (all & 15)) << 8 |
		    widths[pick(h, nr_widths)] << 16 | pick(h, 256) << 24;
	leaf->ebx = pick_u64(h);
	leaf->ecx = pick_u64(h);
	leaf->edx = (pick(h, VPMU_MAX_FIXED + 2) | (all & 31)) |
		    widths[pick(h, nr_widths)] << 5 | (pick_u64(h) & ~GENMASK_ULL(12, 0));
	note("CPUID 0AH: %08x %08x", leaf->eax, leaf->edx);
}

/* Version 2 with any number of counters, 1 with either; with or without registers of their own. */
static void randomize_amd(struct hostile *h, struct kvm_cpuid2 *cpuid)
{
	struct kvm_cpuid_entry2 *features = leaf_of(cpuid, X86_FEATURE_PERFCTR_CORE.function);
	struct kvm_cpuid_entry2 *leaf = leaf_of(cpuid, X86_FEATURE_PERFMON_V2.function);

	if (!pick(h, 4))
		features->ecx ^= BIT(X86_FEATURE_PERFCTR_CORE.bit);
	leaf->eax = pick_u64(h) & ~BIT(X86_FEATURE_PERFMON_V2.bit);
	if (pick(h, 4))
		leaf->eax |= BIT(X86_FEATURE_PERFMON_V2.bit);
	leaf->ebx = pick_u64(h);
	leaf->ecx = pick_u64(h);
	leaf->edx = pick_u64(h);
	note("CPUID 80000001H: %08x, 80000022H: %08x %08x", features->ecx, leaf->eax, leaf->ebx);
}

static void randomize_perfmon(struct hostile *h, struct kvm_cpuid2 *cpuid)
{
	if (host_cpu_is_amd)
		randomize_amd(h, cpuid);
	else
		randomize_intel(h, cpuid);
}

static void do_set_cpuid(struct hostile *h)
{
	const bool run = has_run(h);
	struct kvm_cpuid2 *cpuid;
	bool changed;
	size_t size;

	vcpu_get_cpuid(h->vcpu);
	size = kvm_cpuid2_size(h->vcpu->cpuid->nent);
	cpuid = malloc(size);
	TEST_ASSERT(cpuid, "Out of memory");
	memcpy(cpuid, h->vcpu->cpuid, size);
	if (pick(h, 4))
		randomize_perfmon(h, cpuid);
	if (!pick(h, 4))
		leaf_of(cpuid, 1)->ecx ^= BIT(X86_FEATURE_PDCM.bit);
	changed = memcmp(cpuid, h->vcpu->cpuid, size);

	note("KVM_SET_CPUID2 1: %08x, %s", leaf_of(cpuid, 1)->ecx,
	     run ? "has run" : "before a run");
	expect_errno(__vcpu_ioctl(h->vcpu, KVM_SET_CPUID2, cpuid), run && changed ? EINVAL : 0);
	if (!run)
		refreshed(h);
	free(cpuid);
}

/* Room for more events than KVM takes. */
#define MAX_EVENTS	300

struct event_filter {
	struct kvm_pmu_event_filter header;
	uint64_t events[MAX_EVENTS + 1];
};

/* Bits of its entries, where they have masks. */
static uint64_t masked_event_valid(void)
{
	return GENMASK_ULL(63, 55) | vpmu_event_mask();
}

static uint64_t pick_event(struct hostile *h, bool masked)
{
	const uint64_t valid = masked ? masked_event_valid() : vpmu_event_mask();
	uint64_t event = pick(h, 2) ? vpmu_event_insns() : pick_u64(h) & valid;

	return pick(h, 16) ? event : pick_u64(h);
}

/* In the order in which KVM looks at it. */
static int event_filter_errno(const struct event_filter *f)
{
	unsigned int i;

	if (f->header.action > KVM_PMU_EVENT_DENY)
		return EINVAL;
	if (f->header.flags & ~KVM_PMU_EVENT_FLAGS_VALID_MASK)
		return EINVAL;
	if (f->header.nevents > MAX_EVENTS)
		return E2BIG;
	if (!(f->header.flags & KVM_PMU_EVENT_FLAG_MASKED_EVENTS))
		return 0;
	for (i = 0; i < f->header.nevents; i++) {
		if (f->events[i] & ~masked_event_valid())
			return EINVAL;
	}
	return 0;
}

static void do_event_filter(struct hostile *h)
{
	static const uint16_t sizes[] = { 0, 1, 2, 5, MAX_EVENTS, MAX_EVENTS + 1 };
	static struct event_filter f;
	unsigned int i;

	f.header = (struct kvm_pmu_event_filter) {
		.action = pick(h, 8) ? pick(h, 2) : pick_u64(h),
		.flags = pick(h, 8) ? pick(h, 2) : pick_u64(h),
		.nevents = sizes[pick(h, ARRAY_SIZE(sizes))],
		.fixed_counter_bitmap = pick_u64(h),
	};
	for (i = 0; i < f.header.nevents; i++)
		f.events[i] = pick_event(h, f.header.flags & KVM_PMU_EVENT_FLAG_MASKED_EVENTS);
	note("KVM_SET_PMU_EVENT_FILTER action %x flags %x events %u: %lx...", f.header.action,
	     f.header.flags, f.header.nevents, f.events[0]);
	expect_errno(__vm_ioctl(h->vm, KVM_SET_PMU_EVENT_FILTER, &f.header),
		     event_filter_errno(&f));
}

static void do_cap(struct hostile *h)
{
	uint64_t arg = pick(h, 2) ? pick(h, 2) : pick_u64(h);

	note("KVM_CAP_PMU_CAPABILITY %lx with a vCPU", arg);
	expect_errno(__vm_enable_cap(h->vm, KVM_CAP_PMU_CAPABILITY, arg), EINVAL);
}

static void do_msr_filter(struct hostile *h)
{
	uint8_t bitmap[8] = {};
	struct kvm_msr_filter filter = {
		.flags = pick(h, 8) ? KVM_MSR_FILTER_DEFAULT_ALLOW : (uint32_t)pick_u64(h) | 2,
		.ranges[0] = {
			.flags = pick(h, 8) ? pick(h, 4) : (uint32_t)pick_u64(h) | 4,
			.nmsrs = pick(h, 2),
			.base = pick_msr(h),
			.bitmap = bitmap,
		},
	};
	const struct kvm_msr_filter_range *range = &filter.ranges[0];
	bool bad = filter.flags || (range->nmsrs && (!range->flags || range->flags > 3));

	note("KVM_X86_SET_MSR_FILTER flags %x, %u of %x denied %x", filter.flags, range->nmsrs,
	     range->base, range->flags);
	expect_errno(__vm_ioctl(h->vm, KVM_X86_SET_MSR_FILTER, &filter), bad ? EINVAL : 0);
	if (bad)
		return;
	h->denied = range->nmsrs ? range->flags : 0;
	h->denied_msr = range->base;
}

/* INIT leaves the PMU alone (SDM Vol. 3A, table 11-1). */
static void do_init(struct hostile *h)
{
	struct kvm_vcpu_events events;
	struct kvm_mp_state state;
	struct kvm_sregs sregs;
	struct kvm_regs regs;

	note("INIT");
	if (!kvm_has_cap(KVM_CAP_X86_SMM) || h->wild)
		return;
	vcpu_regs_get(h->vcpu, &regs);
	vcpu_sregs_get(h->vcpu, &sregs);
	vcpu_events_get(h->vcpu, &events);
	events.flags |= KVM_VCPUEVENT_VALID_SMM;
	events.smi.latched_init = 1;
	vcpu_events_set(h->vcpu, &events);
	/* Takes the INIT. */
	vcpu_mp_state_get(h->vcpu, &state);
	TEST_ASSERT_EQ(state.mp_state, KVM_MP_STATE_RUNNABLE);
	expect_values(h, h->vcpu);
	vcpu_sregs_set(h->vcpu, &sregs);
	vcpu_regs_set(h->vcpu, &regs);
}

static void do_mp_state(struct hostile *h)
{
	struct kvm_mp_state state = { .mp_state = pick(h, 12) };
	int r;

	note("KVM_SET_MP_STATE %u", state.mp_state);
	r = __vcpu_ioctl(h->vcpu, KVM_SET_MP_STATE, &state);
	TEST_ASSERT(!r || errno == EINVAL, KVM_IOCTL_ERROR(KVM_SET_MP_STATE, r));
	state.mp_state = KVM_MP_STATE_RUNNABLE;
	vcpu_mp_state_set(h->vcpu, &state);
}

static uint32_t pick_lvtpc(struct hostile *h)
{
	uint32_t mask = pick(h, 2) * APIC_LVT_MASKED;

	if (pick(h, 2))
		return mask | APIC_DM_NMI;
	return mask | pmi_vectors[pick(h, ARRAY_SIZE(pmi_vectors))];
}

static void do_lapic(struct hostile *h)
{
	struct kvm_lapic_state lapic, after;
	uint32_t *lvtpc = (uint32_t *)&lapic.regs[APIC_LVTPC];

	vcpu_ioctl(h->vcpu, KVM_GET_LAPIC, &lapic);
	*lvtpc = pick_lvtpc(h);
	if (!pick(h, 32)) {
		/* SMI, INIT, a vector that isn't one: the guest is not up to that. */
		*lvtpc = pick_u64(h);
		h->wild = true;
	}
	note("KVM_SET_LAPIC LVTPC = %x", *lvtpc);
	vcpu_ioctl(h->vcpu, KVM_SET_LAPIC, &lapic);
	vcpu_ioctl(h->vcpu, KVM_GET_LAPIC, &after);
	TEST_ASSERT(*(uint32_t *)&after.regs[APIC_LVTPC] == *lvtpc, "LVTPC is %x",
		    *(uint32_t *)&after.regs[APIC_LVTPC]);
}

static void do_nested_state(struct hostile *h)
{
	static union {
		struct kvm_nested_state state;
		uint8_t bytes[16384];
	} nested;
	int r;

	note("KVM_GET_NESTED_STATE and KVM_SET_NESTED_STATE");
	if (!kvm_has_cap(KVM_CAP_NESTED_STATE))
		return;
	memset(&nested, 0, sizeof(nested));
	nested.state.size = sizeof(nested);
	vcpu_nested_state_get(h->vcpu, &nested.state);
	vcpu_nested_state_set(h->vcpu, &nested.state);
	/* Anything but its own. */
	nested.state.format ^= 1 + pick(h, 100);
	r = __vcpu_nested_state_set(h->vcpu, &nested.state);
	TEST_ASSERT(r < 0 && errno == EINVAL, KVM_IOCTL_ERROR(KVM_SET_NESTED_STATE, r));
}

/* Another vCPU with the registers of the first reads the same. */
static void do_restore(struct hostile *h)
{
	struct vpmu_register reg;
	unsigned int i;

	note("save and restore");
	if (!h->copy)
		h->copy = __vm_vcpu_add(h->vm, 1);
	vcpu_init_cpuid(h->copy, kvm_get_supported_cpuid());
	if (has_pdcm(h))
		vcpu_set_msr(h->copy, MSR_IA32_PERF_CAPABILITIES, h->capabilities);
	vcpu_init_cpuid(h->copy, h->vcpu->cpuid);
	for (i = 0; i < nr_msrs; i++) {
		if (vpmu_model_register(&h->model, msrs[i], &reg))
			vcpu_set_msr(h->copy, msrs[i],
				     *value_of(h, vpmu_msr_alias(msrs[i])));
	}
	expect_values(h, h->copy);
}

static void do_create_vcpu(struct hostile *h)
{
	/* 1 is the copy's. */
	uint32_t id = pick(h, 4) ? 2 * pick(h, 3) : pick_u64(h) | BIT(30);
	uint32_t max = kvm_check_cap(KVM_CAP_MAX_VCPU_ID);
	int expected = 0, fd;

	if (id >= max)
		expected = EINVAL;
	else if (h->created & BIT(id))
		expected = EEXIST;
	note("KVM_CREATE_VCPU %u", id);
	fd = __vm_ioctl(h->vm, KVM_CREATE_VCPU, (void *)(unsigned long)id);
	expect_errno(fd, expected);
	if (fd < 0)
		return;
	h->created |= BIT(id);
	close(fd);
}

/* --- the guest runs */

static uint32_t pick_ecx(struct hostile *h)
{
	static const uint32_t kinds[] = { 0, 0, 0, INTEL_RDPMC_FIXED, INTEL_RDPMC_METRICS,
					  INTEL_RDPMC_FAST };

	if (!pick(h, 8))
		return pick_u64(h);
	return kinds[pick(h, ARRAY_SIZE(kinds))] | pick(h, VPMU_MAX_GP + 2);
}

static void pick_program(struct hostile *h)
{
	typeof(program) *guest = addr_gva2hva(h->vm, (uint64_t)&program);
	struct poke *p;

	guest->nr = 1 + pick(h, MAX_POKES);
	for (p = guest->pokes; p < &guest->pokes[guest->nr]; p++) {
		*p = (struct poke) { .kind = pick(h, NR_POKE_KINDS), .index = pick_msr(h) };
		p->value = pick_value(h, p->index);
		if (p->kind == POKE_RDPMC)
			p->index = pick_ecx(h);
		note("  guest: %s %x, %lx", poke_names[p->kind], p->index, p->value);
	}
}

static enum verdict guest_write_verdict(struct hostile *h, const struct poke *p)
{
	struct vpmu_register reg;

	if (!vpmu_model_register(&h->model, p->index, &reg))
		return vpmu_model_is_ancient(&h->model, p->index) ? TAKEN : REFUSED;
	return reg.read_only ? REFUSED : bits_verdict(&reg.guest, p->value);
}

static enum verdict guest_read_verdict(struct hostile *h, const struct poke *p)
{
	struct vpmu_register reg;

	if (!vpmu_model_register(&h->model, p->index, &reg))
		return vpmu_model_is_ancient(&h->model, p->index) ? TAKEN : REFUSED;
	return reg.write_only ? OPEN : TAKEN;
}

static enum verdict guest_verdict(struct hostile *h, const struct poke *p)
{
	if (p->kind == POKE_RDPMC && vpmu_model_is_open_rdpmc(&h->model, p->index))
		return OPEN;
	if (p->kind == POKE_RDPMC)
		return vpmu_model_has_rdpmc(&h->model, p->index) ? TAKEN : REFUSED;
	if (p->index == h->denied_msr &&
	    h->denied & (p->kind == POKE_WRMSR ? KVM_MSR_FILTER_WRITE : KVM_MSR_FILTER_READ))
		return REFUSED;
	return p->kind == POKE_WRMSR ? guest_write_verdict(h, p) : guest_read_verdict(h, p);
}

static void expect_program(struct hostile *h)
{
	const typeof(program) *guest = addr_gva2hva(h->vm, (uint64_t)&program);
	const struct poke *p;
	enum verdict v;

	for (p = guest->pokes; p < &guest->pokes[guest->nr]; p++) {
		TEST_ASSERT(!p->vector || p->vector == GP_VECTOR, "Vector %u", p->vector);
		v = guest_verdict(h, p);
		TEST_ASSERT(v == OPEN || !p->vector == (v == TAKEN),
			    "The guest's %s %x of %lx: vector %u, expected to be %s",
			    poke_names[p->kind], p->index, p->value, p->vector, verdict_names[v]);
	}
}

/* True if the guest came to its next sync. */
static bool run_guest(struct hostile *h)
{
	int tries, r;

	vpmu_signals_start(500);
	for (tries = 0; tries < 100; tries++) {
		r = __vcpu_run(h->vcpu);
		if (!r)
			break;
		TEST_ASSERT(errno == EINTR || errno == EAGAIN, KVM_IOCTL_ERROR(KVM_RUN, r));
	}
	vpmu_signals_stop();
	return !r && h->vcpu->run->exit_reason == KVM_EXIT_IO;
}

static void do_run(struct hostile *h)
{
	struct ucall uc;

	pick_program(h);
	note("KVM_RUN");
	if (!run_guest(h)) {
		TEST_ASSERT(h->wild, "The guest is lost, exit reason %s",
			    exit_reason_str(h->vcpu->run->exit_reason));
	} else if (get_ucall(h->vcpu, &uc) == UCALL_ABORT) {
		TEST_ASSERT(h->wild, "The guest failed");
	} else {
		vcpu_run_complete_io(h->vcpu);
		expect_program(h);
	}
	learn_values(h);
}

static void (* const actions[])(struct hostile *h) = {
	do_set_msr, do_set_msr, do_set_msr, do_set_msrs, do_set_msrs, do_get_msrs, do_bad_memory,
	do_set_capabilities, do_set_cpuid, do_set_cpuid, do_event_filter, do_event_filter, do_cap,
	do_msr_filter, do_init, do_mp_state, do_lapic, do_lapic, do_nested_state, do_restore,
	do_create_vcpu, do_run, do_run, do_run, do_run,
};

static void pick_pmu_capability(struct hostile *h)
{
	uint64_t arg = pick_u64(h) | BIT_ULL(1 + pick(h, 63));

	note("KVM_CAP_PMU_CAPABILITY %lx", arg);
	expect_errno(__vm_enable_cap(h->vm, KVM_CAP_PMU_CAPABILITY, arg), EINVAL);
	h->disabled = !pick(h, 8);
	note("KVM_CAP_PMU_CAPABILITY %x", h->disabled);
	vm_enable_cap(h->vm, KVM_CAP_PMU_CAPABILITY, h->disabled ? KVM_PMU_CAP_DISABLE : 0);
}

static void case_start(struct hostile *h)
{
	unsigned int i;

	h->vm = vm_create(1);
	pick_pmu_capability(h);
	h->vcpu = vm_vcpu_add(h->vm, 0, guest_poke);
	h->created = BIT(0);
	if (h->disabled)
		h->capabilities = PMU_CAP_FW_WRITES;
	else
		h->capabilities = vpmu_capabilities_max();
	if (has_pdcm(h))
		vcpu_set_msr(h->vcpu, MSR_IA32_PERF_CAPABILITIES, h->capabilities);
	refreshed(h);
	for (i = 0; i < ARRAY_SIZE(pmi_vectors); i++)
		vm_install_exception_handler(h->vm, pmi_vectors[i], guest_interrupt);
	vm_install_exception_handler(h->vm, NMI_VECTOR, guest_nmi);
}

static void run_case(uint64_t seed)
{
	struct hostile h = { .rng = new_guest_random_state(seed) };
	int i;

	running_seed = seed;
	nr_lines = 0;
	case_start(&h);
	for (i = 0; i < NR_ACTIONS; i++)
		actions[pick(&h, ARRAY_SIZE(actions))](&h);
	expect_values(&h, h.vcpu);
	kvm_vm_free(h.vm);
	running_seed = 0;
}

/* --- what must be so, whatever happened */

static void expect_guest_counts(void)
{
	struct vpmu_config config = vpmu_config_max();
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = vpmu_vm_create(&vcpu, guest_plain, &config);

	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_DONE);
	kvm_vm_free(vm);
}

static void expect_host_counts(void)
{
	struct perf_event_attr attr = host_event_attr();
	uint64_t frame, irqs;
	int fd;

	attr.pinned = 1;
	fd = host_event_open_ok(&attr, 0, -1);
	frame = host_loop_frame(fd);
	irqs = host_all_interrupts();
	host_expect_count(host_loop_count(fd, HOST_ROUNDS),
			  frame + HOST_ROUNDS * HOST_LOOP_INSNS, irqs);
	close(fd);
}

/*
 * Nothing of a guest's is left in the processor. Without the msr driver nobody
 * can tell, nor can they where the NMI watchdog has a counter.
 */
static void expect_host_idle(int cpu)
{
	const struct vpmu_config host = vpmu_config_host();
	uint64_t selector;
	unsigned int i;

	if (!host_msr_is_available(cpu))
		return;
	for (i = 0; i < host.nr_gp; i++) {
		selector = host_msr_read(cpu, vpmu_msr_selector(i));
		TEST_ASSERT(!(selector & ARCH_PERFMON_EVENTSEL_ENABLE),
			    "CPU %d: counter %u was left enabled", cpu, i);
	}
	/* perf leaves the field of its last event as it is where it has disabled the PMU. */
	TEST_ASSERT(!host.nr_fixed || !host_msr_read(cpu, MSR_CORE_PERF_FIXED_CTR_CTRL) ||
		    !host_msr_read(cpu, vpmu_msr_global_ctrl()),
		    "CPU %d: a fixed counter was left enabled", cpu);
	TEST_ASSERT_EQ(host_msr_read(cpu, vpmu_msr_global_status()), 0);
}

static void expect_all_in_order(void)
{
	int cpus[64], nr = host_cpus(cpus, 64);

	expect_guest_counts();
	expect_host_counts();
	while (nr-- && !nmi_watchdog_is_on())
		expect_host_idle(cpus[nr]);
}

TEST(sequences)
{
	uint64_t i;

	for (i = 0; i < nr_cases; i++) {
		run_case(first_seed + i);
		if (i % CASES_PER_CHECK == CASES_PER_CHECK - 1)
			expect_all_in_order();
	}
	expect_all_in_order();
	printf("# %lu cases of %d actions, seed=%lu\n", nr_cases, NR_ACTIONS, first_seed);
}

/* --- all at once, from several threads */

#define NR_RACES	6
#define RACE_USECS	30000

/**
 * struct race - what the threads share
 * @h: the machine; each thread has random numbers of its own
 * @stop: to end it
 * @runs: how often the guest ran
 * @calls: how many ioctls were made meanwhile
 */
struct race {
	struct hostile h;
	atomic_bool stop;
	atomic_ulong runs;
	atomic_ulong calls;
};

static struct hostile thread_view(struct race *race)
{
	struct hostile h = race->h;

	h.rng = new_guest_random_state(gettid());
	return h;
}

static void *run_thread(void *arg)
{
	struct race *race = arg;
	int r;

	while (!race->stop) {
		r = __vcpu_run(race->h.vcpu);
		TEST_ASSERT(!r || errno == EINTR || errno == EAGAIN, KVM_IOCTL_ERROR(KVM_RUN, r));
		race->runs++;
	}
	return NULL;
}

/* No result is asked for: what is right depends on who comes first. */
static void *msr_thread(void *arg)
{
	struct race *race = arg;
	struct hostile h = thread_view(race);
	uint32_t msr;

	while (!race->stop) {
		msr = pick_msr(&h);
		_vcpu_set_msr(h.vcpu, msr, pick_value(&h, msr));
		__vcpu_ioctl(h.vcpu, KVM_SET_CPUID2, h.vcpu->cpuid);
		race->calls++;
	}
	return NULL;
}

static void *filter_thread(void *arg)
{
	struct race *race = arg;
	struct hostile h = thread_view(race);
	uint8_t bitmap = 0;
	struct event_filter f = {
		.header.nevents = 1,
		.events = { vpmu_event_insns() },
	};
	struct kvm_msr_filter filter = {
		.ranges[0] = { .flags = KVM_MSR_FILTER_WRITE, .nmsrs = 1, .bitmap = &bitmap },
	};

	while (!race->stop) {
		f.header.action = pick(&h, 2);
		f.header.fixed_counter_bitmap = pick(&h, 16);
		vm_ioctl(h.vm, KVM_SET_PMU_EVENT_FILTER, &f.header);
		filter.ranges[0].base = pick_msr(&h);
		vm_ioctl(h.vm, KVM_X86_SET_MSR_FILTER, &filter);
		race->calls++;
	}
	return NULL;
}

/* vCPUs come, and machines with one vCPU come and go. */
static void *create_thread(void *arg)
{
	struct race *race = arg;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	uint64_t id;
	int fd;

	for (id = 1; !race->stop; id++) {
		if (id < 16) {
			fd = __vm_ioctl(race->h.vm, KVM_CREATE_VCPU, (void *)id);
			TEST_ASSERT(fd >= 0, KVM_IOCTL_ERROR(KVM_CREATE_VCPU, fd));
			close(fd);
		}
		vm = vm_create_with_one_vcpu(&vcpu, guest_poke);
		vcpu_set_msr(vcpu, vpmu_msr_global_ctrl(), 1);
		kvm_vm_free(vm);
		race->calls++;
	}
	return NULL;
}

static void *(* const racers[])(void *) = { run_thread, msr_thread, filter_thread, create_thread };
#define NR_RACERS	ARRAY_SIZE(racers)

static void race_start(struct race *race, pthread_t *threads, uint64_t seed)
{
	unsigned int i;

	*race = (struct race) { .h.rng = new_guest_random_state(seed) };
	/* The machine gets no other PMU than what it has from the start. */
	do {
		case_start(&race->h);
		if (race->h.disabled)
			kvm_vm_free(race->h.vm);
	} while (race->h.disabled);
	pick_program(&race->h);
	for (i = 0; i < NR_RACERS; i++)
		TEST_ASSERT(!pthread_create(&threads[i], NULL, racers[i], race),
			    "pthread_create() failed");
}

TEST(races)
{
	unsigned long runs = 0, calls = 0;
	pthread_t threads[NR_RACERS];
	struct race race;
	unsigned int i, n;

	for (n = 0; n < NR_RACES; n++) {
		race_start(&race, threads, first_seed + n);
		usleep(RACE_USECS);
		race.stop = true;
		for (i = 0; i < NR_RACERS; i++)
			pthread_join(threads[i], NULL);
		kvm_vm_free(race.h.vm);
		runs += race.runs;
		calls += race.calls;
	}
	printf("# %lu runs beside %lu other calls\n", runs, calls);
	TEST_ASSERT(runs > NR_RACES && calls > NR_RACES, "This was no race");
	expect_all_in_order();
}

/* A process that is killed takes its machines with it. */
TEST(killed)
{
	struct perf_event_attr attr = host_event_attr();
	pthread_t threads[NR_RACERS];
	struct race race;
	unsigned int n;
	pid_t pid;
	int fd;

	attr.exclude_guest = 0;
	for (n = 0; n < NR_RACES; n++) {
		pid = fork();
		TEST_ASSERT(pid >= 0, "fork() failed");
		if (!pid) {
			race_start(&race, threads, first_seed + n);
			for (;;)
				pause();
		}
		usleep(RACE_USECS / 2 + n * RACE_USECS / 4);
		TEST_ASSERT(!kill(pid, SIGKILL), "kill() failed");
		TEST_ASSERT(waitpid(pid, NULL, 0) == pid, "waitpid() failed");
		fd = host_event_open(&attr, 0, -1);
		TEST_ASSERT(fd >= 0, "The PMU is not given back: %s", strerror(-fd));
		close(fd);
	}
	expect_all_in_order();
}

/* The machine's file is closed while its vCPU runs, which goes on. */
TEST(vm_closed_while_running)
{
	struct race race = { .h.rng = new_guest_random_state(first_seed) };
	pthread_t thread;
	unsigned long runs;

	case_start(&race.h);
	pick_program(&race.h);
	TEST_ASSERT(!pthread_create(&thread, NULL, run_thread, &race), "pthread_create() failed");
	while (!race.runs)
		usleep(100);
	close(race.h.vm->fd);
	for (runs = race.runs; race.runs < runs + 10;)
		usleep(100);
	race.stop = true;
	pthread_join(thread, NULL);
	close(race.h.vcpu->fd);
	expect_guest_counts();
}

/* "name=number" among the arguments goes to *@number. */
static bool take_argument(const char *arg, const char *name, uint64_t *number)
{
	size_t len = strlen(name);

	if (strncmp(arg, name, len) || arg[len] != '=')
		return false;
	*number = strtoull(arg + len + 1, NULL, 0);
	return true;
}

int main(int argc, char *argv[])
{
	int i, rest = 1;

	vpmu_require_exact();
	for (i = 1; i < argc; i++) {
		if (!take_argument(argv[i], "seed", &first_seed) &&
		    !take_argument(argv[i], "cases", &nr_cases))
			argv[rest++] = argv[i];
	}
	/* 0 is no case's. */
	first_seed += !first_seed;
	is_mediated = vpmu_is_mediated();
	list_msrs();
	atexit(print_history);
	return test_harness_run(rest, argv);
}
