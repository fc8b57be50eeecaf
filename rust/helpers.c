// SPDX-License-Identifier: GPL-2.0
/*
 * The C side of kvm_mediated_pmu, see <kvm_mediated_pmu.h>.
 */
#include <linux/bug.h>
#include <linux/build_bug.h>
#include <linux/compiler.h>
#include <linux/irqflags.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/stddef.h>

#include <asm/cpufeature.h>
#include <asm/extable_fixup_types.h>
#include <asm/kvm_vpmu.h>

#include <kvm_mediated_pmu.h>

static bool enable_mediated_pmu = true;
module_param(enable_mediated_pmu, bool, 0444);
MODULE_PARM_DESC(enable_mediated_pmu,
		 "Give new virtual machines a mediated PMU (default: on); if off, the module does nothing");

static unsigned int rest_after = 16;
module_param(rest_after, uint, 0644);
MODULE_PARM_DESC(rest_after,
		 "VM-exits with nothing to count after which a guest's PMU leaves the hardware (default: 16; 0: never)");

/*
 * Registration needs the vendor module's capabilities. One of the two loads,
 * the other has no processor to run on.
 */
MODULE_SOFTDEP("pre: kvm_intel kvm_amd");

bool kmp_parameter_enabled(void)
{
	return enable_mediated_pmu;
}

unsigned int kmp_parameter_rest_after(void)
{
	return READ_ONCE(rest_after);
}

bool kmp_host_has_transactions(void)
{
	return boot_cpu_has(X86_FEATURE_HLE) || boot_cpu_has(X86_FEATURE_RTM);
}

bool kmp_host_has_rdpmc_beyond_core(void)
{
	return boot_cpu_has(X86_FEATURE_PERFCTR_NB) ||
	       boot_cpu_has(X86_FEATURE_PERFCTR_LLC);
}

void kmp_warn_not_for_guests(u32 msr)
{
	WARN_ONCE(1, "no guest may be let access MSR %#x\n", msr);
}

void *kmp_vcpu_priv(const struct kvm_vcpu *vcpu)
{
	return kvm_vpmu_priv(vcpu);
}

void kmp_set_state(struct kvm_vcpu *vcpu, u32 state)
{
	kvm_vpmu_set_state(vcpu, state);
}

void kmp_publish(struct kvm_vcpu *vcpu, const struct kvm_vpmu_public *pub)
{
	kvm_vpmu_publish(vcpu, pub);
}

void kmp_request_pmi(struct kvm_vcpu *vcpu)
{
	kvm_vpmu_request_pmi(vcpu);
}

void kmp_request_recalc_intercepts(struct kvm_vcpu *vcpu)
{
	kvm_vpmu_request_recalc_intercepts(vcpu);
}

bool kmp_is_guest_mode(const struct kvm_vcpu *vcpu)
{
	return kvm_vpmu_is_guest_mode(vcpu);
}

bool kmp_guest_has_svme(const struct kvm_vcpu *vcpu)
{
	return kvm_vpmu_guest_has_svme(vcpu);
}

unsigned long kmp_irq_save(void)
{
	unsigned long flags;

	local_irq_save(flags);
	return flags;
}

void kmp_irq_restore(unsigned long flags)
{
	local_irq_restore(flags);
}

void kmp_check_irqs_disabled(void)
{
	WARN_ON_ONCE(!irqs_disabled());
}

/*
 * The layout that the contract with KVM has on both sides. Bindgen follows
 * the header, but a KVM that was built from another version of it does not.
 */
static_assert(sizeof(struct kvm_vpmu_host_caps) == 48);
static_assert(offsetof(struct kvm_vpmu_host_caps, counters) == 32);
static_assert(sizeof(struct kvm_vpmu_guest_caps) == 40);
static_assert(sizeof(struct kvm_vpmu_cpuid) == 16);
static_assert(sizeof(struct kvm_vpmu_public) == 24);
static_assert(offsetof(struct kvm_vpmu_backend, caps) == 16);
static_assert(sizeof(struct kvm_vpmu_config) == 4 * 16 + 8);
static_assert(offsetof(struct kvm_vpmu_backend, vcpu_create) == 64);
static_assert(sizeof(struct kvm_vpmu_backend) == 64 + 10 * 8);

/* Types of entries in the exception table, see pmu/mod.rs. */
static_assert(EX_TYPE_WRMSR == 8);
static_assert(EX_TYPE_RDMSR == 9);
