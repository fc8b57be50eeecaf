/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What a guest's PMU consists of, and which bits its registers have: SDM Vol. 3B,
 * 21.2 "Architectural Performance Monitoring", and KVM's ABI where that leaves
 * something open.
 */
#ifndef SELFTEST_VPMU_MODEL_H
#define SELFTEST_VPMU_MODEL_H

#include "vpmu.h"

/**
 * struct vpmu_model - a guest's PMU
 * @version: 0 for none, 1 or 2
 * @nr_gp: general-purpose counters
 * @nr_fixed: fixed counters
 * @gp_mask: bits of a general-purpose counter
 * @fixed_mask: bits of a fixed counter
 * @full_width: the registers for full-width writes exist
 * @metrics: IA32_PERF_METRICS exists
 */
struct vpmu_model {
	unsigned int version;
	unsigned int nr_gp;
	unsigned int nr_fixed;
	uint64_t gp_mask;
	uint64_t fixed_mask;
	bool full_width;
	bool metrics;
};

/* The PMU of @vcpu by its CPUID, if its IA32_PERF_CAPABILITIES is @capabilities. */
struct vpmu_model vpmu_model_of(struct kvm_vcpu *vcpu, uint64_t capabilities);

/**
 * struct vpmu_register - what user space may write to a register
 * @valid: bits that can be set; any other makes a write fail
 * @open: bits of which that isn't promised
 * @kept: bits that are read back
 * @reset: its value after RESET
 */
struct vpmu_register {
	uint64_t valid;
	uint64_t open;
	uint64_t kept;
	uint64_t reset;
};

/* The register at @msr; false if this PMU has none there. */
bool vpmu_model_register(const struct vpmu_model *model, uint32_t msr,
			 struct vpmu_register *reg);

/* The first register of those that are one, for writes of different widths. */
uint32_t vpmu_msr_alias(uint32_t msr);

/* Two counters and selectors of processors before any PMU: never fault, and may hold nothing. */
bool vpmu_msr_is_p6(uint32_t msr);

/* Does RDPMC of @ecx read something? */
bool vpmu_model_has_rdpmc(const struct vpmu_model *model, uint32_t ecx);

#endif /* SELFTEST_VPMU_MODEL_H */
