/* SPDX-License-Identifier: GPL-2.0 */
/* Entry points of which it is known what they execute, and the way to user mode and back. */
#include "layout.h"

	.text
	.code64
/*
 * Handlers with a known number of instructions. %r15 holds the address of the
 * local APIC where one is needed, %r14 that of a counter of interrupts.
 */
	.globl quick_iret, quick_skip2, quick_skip3_err, quick_skip2_err, quick_eoi, quick_rearm
quick_iret:				/* 1 instruction, 1 branch */
	iretq
quick_skip2:				/* 2 instructions, 1 branch */
	addq	$2, (%rsp)
	iretq
quick_skip3_err:			/* 3 instructions, 1 branch */
	addq	$8, %rsp
	addq	$3, (%rsp)
	iretq
quick_skip2_err:			/* 3 instructions, 1 branch */
	addq	$8, %rsp
	addq	$2, (%rsp)
	iretq
quick_eoi:				/* 2 instructions, 1 branch */
	movl	$0, 0xb0(%r15)
	iretq
quick_rearm:				/* 4 instructions, 1 branch */
	incl	(%r14)
	movl	$TIMER_TICKS, 0x380(%r15)
	movl	$0, 0xb0(%r15)
	iretq

/* SYSCALL with a known number of instructions: 1 instruction, 1 branch */
	.globl quick_syscall
quick_syscall:
	sysretq

/* void enter_user(void *rip, void *rsp): run user code until it executes INT 81H */
	.globl enter_user, leave_user
enter_user:
	pushq	%rbx
	pushq	%rbp
	pushq	%r12
	pushq	%r13
	pushq	%r14
	pushq	%r15
	movq	%rsp, user_return_rsp
	pushq	$SEL_USER_DATA | 3
	pushq	%rsi
	pushq	user_rflags
	pushq	$SEL_USER_CODE64 | 3
	pushq	%rdi
	iretq
leave_user:
	movq	user_return_rsp, %rsp
	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%rbp
	popq	%rbx
	ret

	.data
	.globl user_rflags
user_rflags:
	.quad	2
	.bss
user_return_rsp:
	.skip	8
