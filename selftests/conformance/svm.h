/* SPDX-License-Identifier: GPL-2.0 */
/* A hypervisor for AMD with one guest, which shares the host's address space. */
#ifndef SVM_H
#define SVM_H

#include "amd.h"

/* VMCB: what is used of it */
#define VMCB_EXCEPTIONS		0x008
#define VMCB_MISC1		0x00c
#define VMCB_MISC2		0x010
#define VMCB_MSRPM		0x048
#define VMCB_IOPM		0x040
#define VMCB_ASID		0x058
#define VMCB_V_TPR		0x060
#define VMCB_V_IRQ		0x061
#define VMCB_V_PRIO		0x062
#define VMCB_V_INTR_MASKING	0x063
#define VMCB_V_VECTOR		0x064
#define VMCB_EXITCODE		0x070
#define VMCB_EXITINFO1		0x078
#define VMCB_EXITINTINFO	0x088
#define VMCB_EVENTINJ		0x0a8
#define VMCB_NRIP		0x0c8
#define VMCB_ES			0x400
#define VMCB_CS			0x410
#define VMCB_SS			0x420
#define VMCB_DS			0x430
#define VMCB_GDTR		0x460
#define VMCB_IDTR		0x480
#define VMCB_TR			0x490
#define VMCB_CPL		0x4cb
#define VMCB_EFER		0x4d0
#define VMCB_CR4		0x548
#define VMCB_CR3		0x550
#define VMCB_CR0		0x558
#define VMCB_DR7		0x560
#define VMCB_DR6		0x568
#define VMCB_RFLAGS		0x570
#define VMCB_RIP		0x578
#define VMCB_RSP		0x5d8

#define MISC1_INTR		BIT(0)
#define MISC1_NMI		BIT(1)
#define MISC1_VINTR		BIT(4)
#define MISC1_RDPMC		BIT(15)
#define MISC1_CPUID		BIT(18)
#define MISC1_MSR		BIT(28)
#define MISC1_SHUTDOWN		BIT(31)
#define MISC2_VMRUN		BIT(0)
#define MISC2_VMMCALL		BIT(1)

#define VMEXIT_EXCP(n)		(0x40 + (n))
#define VMEXIT_INTR		0x60
#define VMEXIT_NMI		0x61
#define VMEXIT_VINTR		0x64
#define VMEXIT_RDPMC		0x6f
#define VMEXIT_CPUID		0x72
#define VMEXIT_MSR		0x7c
#define VMEXIT_VMMCALL		0x81

#define EVENT_NMI		(BIT(31) | 2 << 8 | 2)
#define EVENT_EXCEPTION(v)	(BIT(31) | 3 << 8 | (v))
#define EVENT_SOFT_INT(v)	(BIT(31) | 4 << 8 | (v))

/* Host instructions between the two WRMSRs around VMRUN, the second included. */
#define SVM_HOST_INSNS		5

extern u8 vmcb[4096];
#define VMCB8(offset)	(*(volatile u8 *)(vmcb + (offset)))
#define VMCB16(offset)	(*(volatile u16 *)(vmcb + (offset)))
#define VMCB32(offset)	(*(volatile u32 *)(vmcb + (offset)))
#define VMCB64(offset)	(*(volatile u64 *)(vmcb + (offset)))

/* The host's RFLAGS at VMRUN */
extern u64 host_rflags;

bool svm_init(void);
void svm_exit(void);
/* The guest is what the host is, but for RSP, with IF 0. */
void init_vmcb(void);
/* Run the guest from rip until it exits, return the exit code. ctl is PerfCntrGlobalCtl from VMRUN on. */
u64 svm_run(void *rip, u64 ctl);

#define GUEST(name, body)						\
	extern char name[];						\
	asm(".text\n.globl " #name "\n.balign 64\n" #name ":\n" body "\nvmmcall\njmp .\n")

extern char amd_guest_100_nops[];

#endif
