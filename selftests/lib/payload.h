/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Pieces of guest code of which it is known to the instruction what retires.
 *
 * A payload is one asm blob between two WRMSRs of the same register: the first
 * makes counters count, the second, of zero, stops them. The compiler can put
 * nothing in between. How many instructions and branches retire stands beside
 * the asm that it describes, as a sum that follows its lines.
 *
 * Of the two WRMSRs exactly one counts: a PMU that counts what retires while
 * counting is on misses the first, which retires before counting starts, or
 * the second, which retires after it ended, but not both.
 */
#ifndef SELFTEST_PAYLOAD_H
#define SELFTEST_PAYLOAD_H

#include <stdint.h>

#include <linux/compiler.h>
#include <linux/stringify.h>

/* Rounds of each payload's loop. */
#define PAYLOAD_LOOPS		25
#define PAYLOAD_LOOPS_STR	__stringify(PAYLOAD_LOOPS)

/* Instructions around the blob: 1 MOV, 2 XOR and one of the two WRMSRs. */
#define PAYLOAD_FRAME_INSNS	4

/**
 * struct payload - a blob and what it retires, frame included
 * @name: for messages
 * @run: WRMSR(@msr, @on), the blob, WRMSR(@msr, 0); @arg is the blob's
 * @insns: instructions that retire
 * @branches: branches that retire, taken or not, near and far
 */
struct payload {
	const char *name;
	void (*run)(uint32_t msr, uint64_t on, uint64_t arg);
	uint64_t insns;
	uint64_t branches;
};

/*
 * Inside @_body R10 holds the argument, RAX, RBX, RCX, RDX, RSI, RDI, R9 and
 * R11 are free, everything else has to stay.
 */
#define DEFINE_PAYLOAD(_name, _body, _insns, _branches)				\
static noinline void								\
payload_run_##_name(uint32_t msr, uint64_t on, uint64_t arg)			\
{										\
	uint32_t eax = on, edx = on >> 32, ecx = msr;				\
	register uint64_t r8 asm("r8") = msr;					\
	register uint64_t r10 asm("r10") = arg;					\
										\
	asm volatile("wrmsr\n\t"						\
		     _body							\
		     "mov %%r8d, %%ecx\n\t"					\
		     "xor %%eax, %%eax\n\t"					\
		     "xor %%edx, %%edx\n\t"					\
		     "wrmsr\n\t"						\
		     : "+a"(eax), "+d"(edx), "+c"(ecx), "+r"(r10)		\
		     : "r"(r8)							\
		     : "rbx", "rsi", "rdi", "r9", "r11", "cc", "memory");	\
}										\
static const struct payload payload_##_name = {					\
	.name = #_name,								\
	.run = payload_run_##_name,						\
	.insns = PAYLOAD_FRAME_INSNS + (_insns),				\
	.branches = (_branches),						\
}

/* As DEFINE_PAYLOAD(), the body repeated: one MOV, and DEC and JNZ a round. */
#define DEFINE_LOOP_PAYLOAD(_name, _body, _insns, _branches)			\
DEFINE_PAYLOAD(_name,								\
	       "mov $" PAYLOAD_LOOPS_STR ", %%r9d\n\t"				\
	       "77:\n\t"							\
	       _body								\
	       "dec %%r9d\n\t"							\
	       "jnz 77b\n\t",							\
	       1 + PAYLOAD_LOOPS * ((_insns) + 2),				\
	       PAYLOAD_LOOPS * ((_branches) + 1))

#endif /* SELFTEST_PAYLOAD_H */
