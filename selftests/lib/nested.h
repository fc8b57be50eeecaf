/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests of nested guests share, whatever L1 enters L2 by. Functions
 * named guest_*() run in L1, those named l2_*() in L2.
 */
#ifndef SELFTEST_NESTED_H
#define SELFTEST_NESTED_H

#include <stdbool.h>
#include <stdint.h>

#include "vpmu.h"

/* The end of L2's stack, as a function that was called finds it. */
#define L2_STACK_TOP	((uint64_t)(l2_stack + sizeof(l2_stack)) - 8)
extern uint8_t l2_stack[4 * PAGE_SIZE];

/**
 * struct l2_code - code of L2 of which it is known what retires
 * @name: for messages
 * @run: where it starts
 * @insns: instructions that retire
 * @branches: branches among these
 * @exit: the exit that ends it, as L1 gets to see it
 */
struct l2_code {
	const char *name;
	void *run;
	uint64_t insns;
	uint64_t branches;
	uint32_t exit;
};

/*
 * Code that ends with @_hypercall, VMCALL or VMMCALL, unless something else
 * exits to L1 before. It may use RAX, RCX and RDX, which are all that L1 does
 * without afterwards.
 */
#define DEFINE_L2(_name, _hypercall, _body, _insns, _branches, _exit)	\
void l2_##_name(void);							\
asm(".pushsection .text\n"						\
    ".balign 64\n"							\
    "l2_" #_name ":\n\t"						\
    _body								\
    _hypercall "\n\t"							\
    "ud2\n"								\
    ".popsection");							\
static const struct l2_code l2_code_##_name = {				\
	.name = #_name,							\
	.run = l2_##_name,						\
	.insns = (_insns),						\
	.branches = (_branches),					\
	.exit = (_exit),						\
}

enum access {
	NO_ACCESS,
	RDPMC,
	RDMSR,
	WRMSR,
};

extern const char * const access_names[];

/**
 * struct op - an access of the PMU
 * @access: how
 * @index: what it has in ECX
 * @times: how often it is done
 * @in_l2: L2 does it
 * @l1_intercepts: L1 wants to see it when L2 does it
 * @seen: how often L1 has seen it, the guest's answer
 */
struct op {
	enum access access;
	uint32_t index;
	uint32_t times;
	bool in_l2;
	bool l1_intercepts;
	uint32_t seen;
};

/* What is to be done, in the guest's memory. */
extern struct op op;

/* Guest, L1 or L2: @op once. */
void guest_do_op(void);

/**
 * struct l1 - how L1 goes about its L2
 * @set_intercept: has @op exit to L1, or not
 * @have_l2_do_op: runs L2 to its next exit, which is to be that of @op if L1
 *	intercepts it, else the hypercall after it
 */
struct l1 {
	void (*set_intercept)(bool set);
	void (*have_l2_do_op)(void);
};

/* Guest: @op as often as it says, and a GUEST_SYNC() each time. */
__noreturn void guest_walk(const struct l1 *l1);

/*
 * L2's accesses of @nr MSRs, or by RDPMC: each exits to L1 if L1 wants it to, and
 * to KVM if L1's own does, which vpmu_intercept_walk_test is about. Return how
 * many exit to neither. The vCPU is in guest_walk(), at its first GUEST_SYNC().
 */
unsigned int walk_op(struct kvm_vcpu *vcpu, enum access access, uint32_t index);
unsigned int walk_msrs(struct kvm_vcpu *vcpu, uint32_t first, uint32_t nr);

/**
 * struct l2_pmi - an overflow in L2, and what came of it
 * @nmi: LVTPC is in NMI mode
 * @exiting: L1 has L2 exit by it
 * @count: PMIs so far
 */
struct l2_pmi {
	bool nmi;
	bool exiting;
	volatile uint64_t count;
};

#define PMI_VECTOR	0x52
extern struct l2_pmi pmi;

/* Tells the guest which PMIs to expect, and has L1 and L2 count them. */
void expect_pmi(struct kvm_vm *vm, bool nmi, bool exiting);

/* Guest: lets PMIs come, on a counter that overflows with its @n'th event. */
void guest_arm_pmi(uint64_t n);

/* L0's event filter denies instructions, on general-purpose counters. */
void deny_instructions(struct kvm_vm *vm);

/* Guest: a random number of 64 bits, of which the selftest library has but 31 at a time. */
uint64_t guest_random(void);

/*
 * The same guest on a new VM and vCPU: all that KVM lists as to be saved, the
 * nested state last.
 */
struct kvm_vcpu *restore_nested(struct kvm_vm *vm, struct kvm_vcpu *vcpu,
				const struct vpmu_config *config);

/*
 * Runs a guest whose L2 does I/O PAYLOAD_LOOPS times, then calls l2_read_often(),
 * and saves and restores it on the way. If @free, these reads are not to exit.
 */
void run_and_restore(struct kvm_vcpu *vcpu, const struct vpmu_config *config, bool free);
void l2_read_often(void);

/* Has System Management Mode do nothing but SMM_NOPS times NOP, and RSM. */
#define SMM_NOPS	3
void prepare_smm(struct kvm_vcpu *vcpu);

/*
 * Runs a guest to its end, with an SMI each time that it does I/O; tells how many
 * there were.
 */
int run_with_smis(struct kvm_vcpu *vcpu);

#endif /* SELFTEST_NESTED_H */
