/* SPDX-License-Identifier: GPL-2.0 */
/*
 * loop N: 2 * N instructions and N branches in a loop, and nothing that
 * depends on anything else. perf's counts of two runs differ by the loop's.
 */
	.globl	_start
	.text
_start:
	mov	16(%rsp), %rsi		/* argv[1] */
	xor	%edi, %edi
1:	movzbl	(%rsi), %eax		/* as many digits in each run that is compared */
	test	%al, %al
	jz	2f
	imul	$10, %rdi, %rdi
	lea	-48(%rdi,%rax), %rdi
	inc	%rsi
	jmp	1b
2:	dec	%rdi
	jnz	2b
	mov	$60, %eax		/* exit(0) */
	xor	%edi, %edi
	syscall
	.section .note.GNU-stack, "", @progbits
