/* SPDX-License-Identifier: GPL-2.0 */
/* A hypervisor with one guest, which shares the host's address space. */
#ifndef VMX_H
#define VMX_H

#include "intel.h"

/* VMCS fields */
#define VMCS_POSTED_INTR_VECTOR		0x0002
#define VMCS_GUEST_ES			0x0800	/* the other selectors follow */
#define VMCS_GUEST_INTR_STATUS		0x0810
#define VMCS_HOST_ES			0x0c00
#define VMCS_MSR_BITMAP			0x2004
#define VMCS_VIRTUAL_APIC		0x2012
#define VMCS_POSTED_INTR_DESC		0x2016
#define VMCS_LINK_POINTER		0x2800
#define VMCS_GUEST_DEBUGCTL		0x2802
#define VMCS_GUEST_PERF_GLOBAL_CTRL	0x2808
#define VMCS_HOST_PERF_GLOBAL_CTRL	0x2c04
#define VMCS_PIN_CONTROLS		0x4000
#define VMCS_CPU_CONTROLS		0x4002
#define VMCS_EXIT_CONTROLS		0x400c
#define VMCS_ENTRY_CONTROLS		0x4012
#define VMCS_CPU_CONTROLS2		0x401e
#define VMCS_INSTRUCTION_ERROR		0x4400
#define VMCS_EXIT_REASON		0x4402
#define VMCS_EXIT_INTR_INFO		0x4404
#define VMCS_EXIT_INSN_LENGTH		0x440c
#define VMCS_GUEST_ES_LIMIT		0x4800
#define VMCS_GUEST_ES_AR		0x4814
#define VMCS_GUEST_CR0			0x6800
#define VMCS_GUEST_CR3			0x6802
#define VMCS_GUEST_CR4			0x6804
#define VMCS_GUEST_ES_BASE		0x6806
#define VMCS_GUEST_GDTR_BASE		0x6816
#define VMCS_GUEST_DR7			0x681a
#define VMCS_GUEST_RSP			0x681c
#define VMCS_GUEST_RIP			0x681e
#define VMCS_GUEST_RFLAGS		0x6820
#define VMCS_HOST_CR0			0x6c00
#define VMCS_HOST_RSP			0x6c14
#define VMCS_HOST_RIP			0x6c16

#define PIN_EXT_INTR_EXITING		BIT(0)
#define PIN_NMI_EXITING			BIT(3)
#define PIN_POSTED_INTERRUPTS		BIT(7)
#define CPU_RDPMC_EXITING		BIT(11)
#define CPU_TPR_SHADOW			BIT(21)
#define CPU_MSR_BITMAPS			BIT(28)
#define CPU_SECONDARY			BIT(31)
#define CPU2_VIRT_INTR_DELIVERY		BIT(9)
#define EXIT_SAVE_DEBUG_CONTROLS	BIT(2)
#define EXIT_HOST_64			BIT(9)
#define EXIT_LOAD_PERF_GLOBAL_CTRL	BIT(12)
#define EXIT_ACK_INTERRUPT		BIT(15)
#define EXIT_SAVE_PERF_GLOBAL_CTRL	BIT(30)
#define ENTRY_LOAD_DEBUG_CONTROLS	BIT(2)
#define ENTRY_GUEST_64			BIT(9)
#define ENTRY_LOAD_PERF_GLOBAL_CTRL	BIT(13)

#define EXIT_REASON_NMI			0
#define EXIT_REASON_EXT_INTR		1
#define EXIT_REASON_CPUID		10
#define EXIT_REASON_RDPMC		15
#define EXIT_REASON_VMCALL		18
#define EXIT_REASON_BAD_GUEST		0x80000021
#define EXIT_REASON_VMFAIL		0xffffffff

#define VMERR_BAD_CONTROLS		7
#define VMERR_BAD_HOST_STATE		8

/* Host instructions between the two WRMSRs around an entry, the second included. */
#define VMX_HOST_INSNS			8

u64 vmread(u64 field);
void vmwrite(u64 field, u64 value);
bool vmx_init(void);
void vmx_exit(void);
/* Default controls; sets of bits on top of them. */
void vmx_controls(u64 pin, u64 cpu, u64 cpu2, u64 exit, u64 entry);
/*
 * Run the guest from rip until it exits, return the exit reason. host_ctrl goes
 * into GLOBAL_CTRL right before the entry; it is 0 again when this returns.
 */
u64 vmx_run(void *rip, u64 host_ctrl);
/* GLOBAL_CTRL as the VM-exit left it */
extern u64 vmx_exit_ctrl;

/* An NMI that exited blocks others until an IRET. */
void unblock_nmis(void);

void guest_100_nops(void);
void guest_5000_nops(void);
void guest_cpuid(void);

#endif
