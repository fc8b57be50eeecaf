// SPDX-License-Identifier: GPL-2.0
/*
 * Branches that KVM emulates are those of the processor, for every event that tells
 * kinds of branches apart, as those do by which record-and-replay debuggers count.
 *
 * The guest executes each kind of branch itself, and then with the prefix that has KVM
 * emulate it. All events have to count the same, and what the manuals say of them.
 */
#include "host_sysctl.h"
#include "vpmu.h"
#include "vpmu_harness.h"

#define FORCE_EMULATION	"/sys/module/kvm/parameters/force_emulation_prefix"

#define NR_BRANCHES	1000
#define BY_FOUR		4

/* @_name: NR_BRANCHES times @_branch, with what it needs before, @_prefix in front of it. */
#define DEFINE_BRANCHES_OF(_name, _setup, _prefix, _branch, _rest)		\
static noinline void _name(uint32_t msr, uint64_t on)				\
{										\
	uint32_t eax = on, edx = on >> 32;					\
										\
	asm volatile("wrmsr\n\t"						\
		     "mov $" __stringify(NR_BRANCHES) ", %%r9d\n\t"		\
		     "77:\n\t"							\
		     _setup							\
		     _prefix _branch "\n\t"					\
		     _rest							\
		     "dec %%r9d\n\t"						\
		     "jnz 77b\n\t"						\
		     "xor %%eax, %%eax\n\t"					\
		     "xor %%edx, %%edx\n\t"					\
		     "wrmsr\n\t"						\
		     : "+a"(eax), "+d"(edx) : "c"(msr)				\
		     : "rbx", "r9", "r10", "r11", "cc", "memory");		\
}

#define DEFINE_BRANCHES(_name, _setup, _branch, _rest)				\
DEFINE_BRANCHES_OF(native_##_name, _setup, "", _branch, _rest)			\
DEFINE_BRANCHES_OF(emulated_##_name, _setup, KVM_FEP, _branch, _rest)

DEFINE_BRANCHES(nop, "", "nop", "")
DEFINE_BRANCHES(jcc_taken, "xor %%r10d, %%r10d\n\t", "jz 1f", "nop\n\t1:\n\t")
DEFINE_BRANCHES(jcc_not_taken, "xor %%r10d, %%r10d\n\t", "jnz 1f", "nop\n\t1:\n\t")
DEFINE_BRANCHES(jcc_long_taken, "xor %%r10d, %%r10d\n\t", ".byte 0x0f, 0x84; .long 1f - . - 4",
		"nop\n\t1:\n\t")
DEFINE_BRANCHES(jcc_long_not_taken, "xor %%r10d, %%r10d\n\t",
		".byte 0x0f, 0x85; .long 1f - . - 4", "nop\n\t1:\n\t")
/* Odd and even rounds. */
DEFINE_BRANCHES(jcc_by_turns, "test $1, %%r9d\n\t", "jz 1f", "nop\n\t1:\n\t")
DEFINE_BRANCHES(jrcxz_not_taken, "", "jrcxz 1f", "nop\n\t1:\n\t")
DEFINE_BRANCHES(loop_taken, "mov %%rcx, %%rbx\n\t", "loop 1f", "nop\n\t1: mov %%rbx, %%rcx\n\t")
DEFINE_BRANCHES(jmp, "", "jmp 1f", "nop\n\t1:\n\t")
DEFINE_BRANCHES(jmp_long, "", ".byte 0xe9; .long 1f - . - 4", "nop\n\t1:\n\t")
DEFINE_BRANCHES(jmp_register, "lea 1f(%%rip), %%r10\n\t", "jmp *%%r10", "nop\n\t1:\n\t")
DEFINE_BRANCHES(jmp_memory, "lea 1f(%%rip), %%r10\n\tpush %%r10\n\t", "jmp *(%%rsp)",
		"nop\n\t1: pop %%r10\n\t")
DEFINE_BRANCHES(call, "", "call 1f", "nop\n\t1: pop %%r10\n\t")
DEFINE_BRANCHES(call_register, "lea 1f(%%rip), %%r10\n\t", "call *%%r10",
		"nop\n\t1: pop %%r10\n\t")
DEFINE_BRANCHES(ret, "lea 1f(%%rip), %%r10\n\tpush %%r10\n\t", "ret", "nop\n\t1:\n\t")
DEFINE_BRANCHES(ret_immediate, "push $0\n\tlea 1f(%%rip), %%r10\n\tpush %%r10\n\t", "ret $8",
		"nop\n\t1:\n\t")
DEFINE_BRANCHES(ret_far, "mov %%cs, %%r11d\n\tpush %%r11\n\tlea 1f(%%rip), %%r10\n\tpush %%r10\n\t",
		"lretq", "nop\n\t1:\n\t")

/* What a branch is. */
#define CONDITIONAL	BIT(0)
#define TAKEN		BIT(1)
#define BY_TURNS	BIT(2)		/* taken each other time */
#define CALL		BIT(3)
#define RETURN		BIT(4)
#define INDIRECT	BIT(5)
#define FAR		BIT(6)
#define NO_BRANCH	BIT(7)

/**
 * struct kind - a kind of branch
 * @name: for messages
 * @native: executed by the processor
 * @emulated: by KVM
 * @is: what it is
 */
struct kind {
	const char *name;
	void (*native)(uint32_t msr, uint64_t on);
	void (*emulated)(uint32_t msr, uint64_t on);
	uint32_t is;
};

#define KIND(_name, _is) { #_name, native_##_name, emulated_##_name, _is }

static const struct kind kinds[] = {
	KIND(nop, NO_BRANCH),
	KIND(jcc_taken, CONDITIONAL | TAKEN),
	KIND(jcc_not_taken, CONDITIONAL),
	KIND(jcc_long_taken, CONDITIONAL | TAKEN),
	KIND(jcc_long_not_taken, CONDITIONAL),
	KIND(jcc_by_turns, CONDITIONAL | BY_TURNS),
	KIND(jrcxz_not_taken, CONDITIONAL),
	KIND(loop_taken, CONDITIONAL | TAKEN),
	KIND(jmp, TAKEN),
	KIND(jmp_long, TAKEN),
	KIND(jmp_register, TAKEN | INDIRECT),
	KIND(jmp_memory, TAKEN | INDIRECT),
	KIND(call, TAKEN | CALL),
	KIND(call_register, TAKEN | CALL | INDIRECT),
	KIND(ret, TAKEN | RETURN),
	KIND(ret_immediate, TAKEN | RETURN),
	KIND(ret_far, TAKEN | FAR),
};

/**
 * struct event - an event, and which branches it counts
 * @event: event select and unit mask
 * @all: those that are all of this
 * @none: and nothing of that
 * @not_taken: those that aren't taken, and no others
 */
struct event {
	uint64_t event;
	uint32_t all;
	uint32_t none;
	bool not_taken;
};

/* Instructions first, of which more are executed than the branches. */
static const struct event intel_events[] = {
	{ 0x00c0 },
	{ 0x00c4 },
	{ 0x01c4, .all = CONDITIONAL | TAKEN },
	{ 0x02c4, .all = CALL },
	{ 0x08c4, .all = RETURN },
	{ 0x10c4, .all = CONDITIONAL, .not_taken = true },
	{ 0x11c4, .all = CONDITIONAL },
	{ 0x20c4, .all = TAKEN, .none = FAR },
	{ 0x40c4, .all = FAR },
	{ 0x80c4, .all = INDIRECT },
};

static const struct event amd_events[] = {
	{ 0x00c0 },
	{ 0x00c2 },
	{ 0x00c4, .all = TAKEN },
	{ 0x00c6, .all = FAR },
	{ 0x00c8, .all = RETURN },
	{ 0x00cc, .all = INDIRECT },
	{ 0x00d1, .all = CONDITIONAL },
};

static const struct event *event_of(unsigned int i)
{
	return host_cpu_is_amd ? &amd_events[i] : &intel_events[i];
}

static uint64_t event(unsigned int i)
{
	return event_of(i)->event;
}

/* How many of @nr branches that are this @event counts. */
static uint64_t counted(const struct event *event, uint32_t is, uint64_t nr)
{
	if (is & NO_BRANCH)
		return 0;
	if (is & BY_TURNS) {
		is &= ~BY_TURNS;
		return counted(event, is, nr / 2) + counted(event, is | TAKEN, nr - nr / 2);
	}
	if (event->not_taken && is & TAKEN)
		return 0;
	return (is & event->all) == event->all && !(is & event->none) ? nr : 0;
}

/* Of all that is executed: the loop's own branch is taken, but for its last time. */
static uint64_t expected(const struct event *event, const struct kind *kind)
{
	return counted(event, kind->is, NR_BRANCHES) +
	       counted(event, CONDITIONAL | TAKEN, NR_BRANCHES - 1) +
	       counted(event, CONDITIONAL, 1);
}

static unsigned int nr_events(void)
{
	return host_cpu_is_amd ? ARRAY_SIZE(amd_events) : ARRAY_SIZE(intel_events);
}

/* Counts up to four events from @first on while @branches runs. */
static unsigned int guest_measure(unsigned int first, void (*branches)(uint32_t msr, uint64_t on),
				  uint64_t *counts)
{
	unsigned int nr = min_t(unsigned int, nr_events() - first, BY_FOUR);
	unsigned int i;

	guest_pmu_clear();
	for (i = 0; i < nr; i++)
		wrmsr(vpmu_msr_selector(i), VPMU_SEL_OS(event(first + i)));
	branches(vpmu_msr_global_ctrl(), BIT_ULL(nr) - 1);
	for (i = 0; i < nr; i++)
		counts[i] = _rdpmc(i);
	return nr;
}

static void guest_compare(unsigned int k)
{
	uint64_t native[BY_FOUR], emulated[BY_FOUR];
	const struct kind *kind = &kinds[k];
	unsigned int first, i, nr;

	for (first = 0; first < nr_events(); first += nr) {
		nr = guest_measure(first, kind->native, native);
		guest_measure(first, kind->emulated, emulated);
		for (i = 0; i < nr; i++)
			__GUEST_ASSERT(native[i] == emulated[i],
				       "%s, event %lx: %lu, emulated %lu", kind->name,
				       event(first + i), native[i], emulated[i]);
		__GUEST_ASSERT(first || native[0] >= 3 * NR_BRANCHES, "%s: %lu instructions",
			       kind->name, native[0]);
		for (i = !first; i < nr; i++)
			__GUEST_ASSERT(native[i] == expected(event_of(first + i), kind),
				       "%s, event %lx: %lu, expected %lu", kind->name,
				       event(first + i), native[i],
				       expected(event_of(first + i), kind));
	}
	GUEST_DONE();
}

FIXTURE(emulated) { };
FIXTURE_SETUP(emulated) { }
FIXTURE_TEARDOWN(emulated) { }

FIXTURE_VARIANT(emulated) {
	const char *kind;
};

#define EMULATED(_name) FIXTURE_VARIANT_ADD(emulated, _name) { .kind = #_name }

EMULATED(nop);
EMULATED(jcc_taken);
EMULATED(jcc_not_taken);
EMULATED(jcc_long_taken);
EMULATED(jcc_long_not_taken);
EMULATED(jcc_by_turns);
EMULATED(jrcxz_not_taken);
EMULATED(loop_taken);
EMULATED(jmp);
EMULATED(jmp_long);
EMULATED(jmp_register);
EMULATED(jmp_memory);
EMULATED(call);
EMULATED(call_register);
EMULATED(ret);
EMULATED(ret_immediate);
EMULATED(ret_far);

static unsigned int kind_of(const char *name)
{
	unsigned int k;

	for (k = 0; k < ARRAY_SIZE(kinds); k++) {
		if (!strcmp(kinds[k].name, name))
			return k;
	}
	TEST_FAIL("No kind %s", name);
	return 0;
}

TEST_F(emulated, counts_as_native)
{
	struct vpmu_config config = vpmu_config_max();
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	VPMU_REQUIRE_MEDIATED();
	if (host_sysfs_write(FORCE_EMULATION, "1"))
		SKIP(return, "needs kvm.force_emulation_prefix");
	vm = vpmu_vm_create(&vcpu, guest_compare, &config);
	vcpu_args_set(vcpu, 1, (uint64_t)kind_of(variant->kind));
	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_DONE);
	kvm_vm_free(vm);
}

int main(int argc, char *argv[])
{
	vpmu_require_exact();
	return test_harness_run(argc, argv);
}
