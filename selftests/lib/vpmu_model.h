/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What a guest's PMU consists of, and which bits its registers have: SDM Vol. 3B,
 * 21.2 "Architectural Performance Monitoring", or APM Vol. 2, 13.2 "Performance
 * Monitoring Counters", and KVM's ABI where these leave something open.
 */
#ifndef SELFTEST_VPMU_MODEL_H
#define SELFTEST_VPMU_MODEL_H

#include "vpmu.h"

/* Bits of AMD's selectors that KVM has always kept. */
#define VPMU_AMD_SELECTOR	(GENMASK_ULL(35, 32) | (GENMASK_ULL(31, 0) &	\
				 ~(ARCH_PERFMON_EVENTSEL_PIN_CONTROL |		\
				   ARCH_PERFMON_EVENTSEL_ANY)))

/**
 * struct vpmu_model - a guest's PMU
 * @version: 0 for none, 1 or 2
 * @nr_gp: general-purpose counters
 * @nr_fixed: fixed counters
 * @gp_mask: bits of a general-purpose counter
 * @fixed_mask: bits of a fixed counter
 * @selector_mask: bits of a selector
 * @full_width: the registers for full-width writes exist; on AMD those of all core counters
 * @metrics: IA32_PERF_METRICS exists
 * @hidden_metrics: it doesn't, but the processor has it, and may let the guest enable it
 *	and read it by RDPMC
 */
struct vpmu_model {
	unsigned int version;
	unsigned int nr_gp;
	unsigned int nr_fixed;
	uint64_t gp_mask;
	uint64_t fixed_mask;
	uint64_t selector_mask;
	bool full_width;
	bool metrics;
	bool hidden_metrics;
};

/* The PMU of @vcpu by its CPUID, if its IA32_PERF_CAPABILITIES is @capabilities. */
struct vpmu_model vpmu_model_of(struct kvm_vcpu *vcpu, uint64_t capabilities);

/**
 * struct vpmu_bits - what may be written to a register
 * @valid: bits that can be set; any other makes a write fail
 * @open: bits of which that isn't promised
 */
struct vpmu_bits {
	uint64_t valid;
	uint64_t open;
};

/**
 * struct vpmu_register - a register of a PMU
 * @host: what user space may write
 * @guest: what the guest may write
 * @read_only: the guest may not write at all
 * @write_only: that the guest may read isn't promised
 * @kept: bits that are read back
 * @reset: its value after RESET
 */
struct vpmu_register {
	struct vpmu_bits host;
	struct vpmu_bits guest;
	bool read_only;
	bool write_only;
	uint64_t kept;
	uint64_t reset;
};

/* The register at @msr; false if this PMU has none there. */
bool vpmu_model_register(const struct vpmu_model *model, uint32_t msr,
			 struct vpmu_register *reg);

/*
 * Registers of processors before any PMU, which never fault, and hold nothing
 * where this PMU has no register.
 */
bool vpmu_model_is_ancient(const struct vpmu_model *model, uint32_t msr);

/* Does RDPMC of @ecx read something? */
bool vpmu_model_has_rdpmc(const struct vpmu_model *model, uint32_t ecx);

/* Or isn't that promised? */
bool vpmu_model_is_open_rdpmc(const struct vpmu_model *model, uint32_t ecx);

#define VPMU_MAX_MSRS	48

/* Wherever any PMU of this vendor may have a register; returns how many that is. */
unsigned int vpmu_list_msrs(uint32_t msrs[VPMU_MAX_MSRS]);

/* The first register of those that are one, by different addresses. */
uint32_t vpmu_msr_alias(uint32_t msr);

#endif /* SELFTEST_VPMU_MODEL_H */
