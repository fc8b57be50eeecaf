/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The C side of kvm_mediated_pmu: what Rust can't call or declare itself,
 * since the kernel has it as a macro, as an inline function or not at all.
 *
 * Only rust/ uses it; everything else goes through the abstractions there.
 */
#ifndef _KVM_MEDIATED_PMU_H
#define _KVM_MEDIATED_PMU_H

#include <linux/types.h>

struct kvm_vcpu;
struct kvm_vpmu_public;

/* The module's parameter of that name; constant after module load. */
bool kmp_parameter_enabled(void);

/* The module's parameter rest_after; of vCPUs whose model is set from now on. */
unsigned int kmp_parameter_rest_after(void);

/* Does the processor have transactions, HLE or RTM? */
bool kmp_host_has_transactions(void);

/* Does RDPMC read counters of the data fabric or the L3 cache, too? AMD. */
bool kmp_host_has_rdpmc_beyond_core(void);

/* A table that says otherwise is wrong: warn once. */
void kmp_warn_not_for_guests(u32 msr);

/* The inline functions of <asm/kvm_vpmu.h>. */
void *kmp_vcpu_priv(const struct kvm_vcpu *vcpu);
void kmp_set_state(struct kvm_vcpu *vcpu, u32 state);
void kmp_publish(struct kvm_vcpu *vcpu, const struct kvm_vpmu_public *pub);
void kmp_request_pmi(struct kvm_vcpu *vcpu);
void kmp_request_recalc_intercepts(struct kvm_vcpu *vcpu);
bool kmp_is_guest_mode(const struct kvm_vcpu *vcpu);
bool kmp_guest_has_svme(const struct kvm_vcpu *vcpu);

/* Turns interrupts off, and to what they were. */
unsigned long kmp_irq_save(void);
void kmp_irq_restore(unsigned long flags);

/* Warns if interrupts are on. */
void kmp_check_irqs_disabled(void);

#endif /* _KVM_MEDIATED_PMU_H */
