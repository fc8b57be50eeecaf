/* SPDX-License-Identifier: GPL-2.0 */
/*
 * From the BIOS to 64-bit C, for the boot processor and the others, and the
 * entry points of exceptions and interrupts.
 *
 * The BIOS loads the first sector of the CD's boot image to 7C00H (El Torito,
 * no emulation), which loads the others.
 */
#include "layout.h"

	.section .boot, "awx"
	.code16
	.globl _start
_start:
	cli
	ljmp	$0, $load

	/* xorriso puts where the image is on the medium here. */
	.org	8
info_pvd:
	.long	0
info_lba:
	.long	0
info_length:
	.long	0
	.org	64

/* Read the rest of the image, %dl is the drive. */
load:	xorw	%ax, %ax
	movw	%ax, %ds
	movw	%ax, %ss
	movw	$0x7c00, %sp
	movl	info_length, %ebx
	subl	$SECTOR, %ebx
	jbe	loaded
	movl	info_lba, %eax
	movl	%eax, packet_lba
1:	addw	$(SECTOR / 16), packet_segment
	incl	packet_lba
	movw	$packet, %si
	movb	$0x42, %ah
	int	$0x13
	jc	.
	subl	$SECTOR, %ebx
	ja	1b
loaded:
	cli
	xorw	%ax, %ax
	movw	%ax, %ds
	/* A20 by the fast gate */
	inb	$0x92, %al
	orb	$2, %al
	outb	%al, $0x92
	lgdtl	gdt_ptr
	movl	%cr0, %eax
	orl	$1, %eax
	movl	%eax, %cr0
	ljmpl	$SEL_CODE32, $start32

	.balign	4
packet:	.byte	16, 0
	.word	1			/* sectors */
	.word	0			/* offset */
packet_segment:
	.word	0x7c0
packet_lba:
	.quad	0

/* Entries whose addresses are step apart */
	.macro fill_table table, entries, first, step
	movl	$\first, %eax
	movl	$\table, %edi
	movl	$\entries, %ecx
1:	movl	%eax, (%edi)
	addl	$8, %edi
	addl	$\step, %eax
	loop	1b
	.endm

	.code32
start32:
	movw	$SEL_DATA, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movl	$__bss_start, %edi
	movl	$__bss_end, %ecx
	subl	%edi, %ecx
	xorl	%eax, %eax
	rep stosb

	/* Identity map 4 GiB with 2 MiB pages, accessible to user mode. */
	movl	$pml4 + 7, pml5
	movl	$pdpt + 7, pml4
	fill_table pdpt, 4, "pd + 7", 4096
	fill_table pd, 2048, 0x87, 0x200000
	movl	$boot_stack_end, %esp
	movl	$bsp_main, %ebx
	jmp	enter_long_mode

/* %esp: stack, %ebx: where to go */
enter_long_mode:
	movl	%cr4, %eax
	orl	$0x620, %eax		/* PAE, OSFXSR, OSXMMEXCPT */
	movl	%eax, %cr4
	movl	$pml4, %eax
	movl	%eax, %cr3
	movl	$0xc0000080, %ecx	/* EFER: LME, SCE */
	rdmsr
	orl	$0x101, %eax
	wrmsr
	movl	%cr0, %eax
	andl	$~0xe, %eax
	orl	$0x80010022, %eax	/* PG, WP, NE, MP */
	movl	%eax, %cr0
	ljmpl	$SEL_CODE64, $1f
	.code64
1:	xorl	%eax, %eax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %fs
	movw	%ax, %gs
	movw	%ax, %ss
	movl	%ebx, %ebx
	movl	%esp, %esp
	call	*%rbx
1:	hlt
	jmp	1b

/* Start of application processors, copied to AP_TRAMPOLINE. */
	.code16
	.globl ap_trampoline, ap_trampoline_end
ap_trampoline:
	cli
	xorw	%ax, %ax
	movw	%ax, %ds
	lgdtl	gdt_ptr
	movl	%cr0, %eax
	orl	$1, %eax
	movl	%eax, %cr0
	ljmpl	$SEL_CODE32, $ap_start32
ap_trampoline_end:

	.code32
ap_start32:
	movw	$SEL_DATA, %ax
	movw	%ax, %ds
	movw	%ax, %ss
	movl	$1, %eax
	lock xaddl %eax, ap_next
	incl	%eax			/* CPU number, the BSP is 0 */
	shll	$STACK_SHIFT, %eax
	leal	ap_stacks(%eax), %esp
	movl	$ap_main, %ebx
	jmp	enter_long_mode

	/* Within the reach of 16-bit code. */
	.balign 8
	.globl gdt, gdt_ptr, ap_next
gdt:	.quad	0
	.quad	0x00cf9b000000ffff	/* 08: 32-bit code */
	.quad	0x00cf93000000ffff	/* 10: data */
	.quad	0x00af9b000000ffff	/* 18: 64-bit code */
	.quad	0x00cf93000000ffff	/* 20: data, SYSCALL's stack segment */
	.quad	0x00cffb000000ffff	/* 28: 32-bit user code */
	.quad	0x00cff3000000ffff	/* 30: user data */
	.quad	0x00affb000000ffff	/* 38: 64-bit user code */
	.fill	MAX_CPUS * 2, 8, 0	/* 40: TSSs */
gdt_end:
gdt_ptr:
	.word	gdt_end - gdt - 1
	.long	gdt
ap_next:
	.long	0

	.bss
	.balign 4096
	.globl pml4, pml5, pd
pml5:	.skip	4096
pml4:	.skip	4096
pdpt:	.skip	4096
pd:	.skip	4 * 4096
boot_stack:
	.skip	32768
boot_stack_end:
	.globl ap_stacks
ap_stacks:
	.skip	MAX_CPUS << STACK_SHIFT

/*
 * All vectors push the same frame and call trap(). Those that the processor
 * gives an error code do not push a zero.
 */
	.text
	.code64
	.altmacro
	.macro stub n
	.balign 16
	.if !((\n == 8) | ((\n >= 10) & (\n <= 14)) | (\n == 17) | (\n == 21))
	pushq	$0
	.endif
	pushq	$\n
	jmp	trap_common
	.endm

	.balign 16
	.globl trap_stubs
trap_stubs:
	.set	v, 0
	.rept	256
	stub	%v
	.set	v, v + 1
	.endr

trap_common:
	pushq	%rax
	pushq	%rbx
	pushq	%rcx
	pushq	%rdx
	pushq	%rsi
	pushq	%rdi
	pushq	%rbp
	pushq	%r8
	pushq	%r9
	pushq	%r10
	pushq	%r11
	pushq	%r12
	pushq	%r13
	pushq	%r14
	pushq	%r15
	movq	%rsp, %rdi
	cld
	call	trap
	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%r11
	popq	%r10
	popq	%r9
	popq	%r8
	popq	%rbp
	popq	%rdi
	popq	%rsi
	popq	%rdx
	popq	%rcx
	popq	%rbx
	popq	%rax
	addq	$16, %rsp
	iretq
