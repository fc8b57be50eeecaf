/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the vPMU selftests share. Functions named guest_*() run in the guest,
 * all others in the test program.
 */
#ifndef SELFTEST_VPMU_H
#define SELFTEST_VPMU_H

#include <stdbool.h>
#include <stdint.h>
#include <x86intrin.h>

#include "kvm_util.h"
#include "pmu.h"
#include "processor.h"

#include "payload.h"

#define VPMU_MODULE_NAME	"kvm_mediated_pmu"
#define VPMU_PARAM_PATH		"/sys/module/" VPMU_MODULE_NAME "/parameters/enable_mediated_pmu"
#define VPMU_REST_PATH		"/sys/module/" VPMU_MODULE_NAME "/parameters/rest_after"

/* Registers of PerfMon version 4, which the selftest library has no names for. */
#define VPMU_MSR_GLOBAL_STATUS_SET	0x391
#define VPMU_MSR_GLOBAL_INUSE		0x392

/* As many counters as any guest can have. */
#define VPMU_MAX_GP			8
#define VPMU_MAX_FIXED			4

/* Bits of AMD's counters, which have no field in CPUID. */
#define VPMU_AMD_WIDTH			48

/* IA32_PERF_CAPABILITIES: PERF_METRICS_AVAILABLE, and the register. */
#define VPMU_CAP_METRICS		BIT_ULL(15)
#define VPMU_MSR_PERF_METRICS		0x329

/* IA32_PERFEVTSELx: @event at CPL 0 or CPL 3 only, enabled. */
#define VPMU_SEL_OS(event)	(ARCH_PERFMON_EVENTSEL_ENABLE | ARCH_PERFMON_EVENTSEL_OS | (event))
#define VPMU_SEL_USR(event)	(ARCH_PERFMON_EVENTSEL_ENABLE | ARCH_PERFMON_EVENTSEL_USR | (event))

/* An I/O port that only the test program answers, and a page that has no memory. */
#define VPMU_USER_PORT		0x80
#define VPMU_USER_GPA		0xd0000000ull

/*
 * Where the vendors' registers are, which of a selector's bits are the event, and
 * which events retired instructions, branches and cycles are: for test program and
 * guest, in which all of this exists if its PMU has version 2.
 */
static inline uint32_t vpmu_msr_selector(unsigned int i)
{
	return host_cpu_is_amd ? MSR_F15H_PERF_CTL0 + 2 * i : MSR_P6_EVNTSEL0 + i;
}

/* On Intel a write of this one is of 32 bits, sign-extended. */
static inline uint32_t vpmu_msr_counter(unsigned int i)
{
	return host_cpu_is_amd ? MSR_F15H_PERF_CTR0 + 2 * i : MSR_IA32_PERFCTR0 + i;
}

static inline uint32_t vpmu_msr_full_counter(unsigned int i)
{
	return host_cpu_is_amd ? vpmu_msr_counter(i) : MSR_IA32_PMC0 + i;
}

static inline uint32_t vpmu_msr_global_ctrl(void)
{
	return host_cpu_is_amd ? MSR_AMD64_PERF_CNTR_GLOBAL_CTL : MSR_CORE_PERF_GLOBAL_CTRL;
}

static inline uint32_t vpmu_msr_global_status(void)
{
	return host_cpu_is_amd ? MSR_AMD64_PERF_CNTR_GLOBAL_STATUS : MSR_CORE_PERF_GLOBAL_STATUS;
}

static inline uint32_t vpmu_msr_status_clear(void)
{
	return host_cpu_is_amd ? MSR_AMD64_PERF_CNTR_GLOBAL_STATUS_CLR :
				 MSR_CORE_PERF_GLOBAL_OVF_CTRL;
}

static inline uint64_t vpmu_event_mask(void)
{
	return GENMASK_ULL(15, 0) | (host_cpu_is_amd ? GENMASK_ULL(35, 32) : 0);
}

static inline uint64_t vpmu_event_insns(void)
{
	return host_cpu_is_amd ? AMD_ZEN_INSTRUCTIONS_RETIRED : INTEL_ARCH_INSTRUCTIONS_RETIRED;
}

static inline uint64_t vpmu_event_branches(void)
{
	return host_cpu_is_amd ? AMD_ZEN_BRANCHES_RETIRED : INTEL_ARCH_BRANCHES_RETIRED;
}

static inline uint64_t vpmu_event_mispredicted_branches(void)
{
	return host_cpu_is_amd ? AMD_ZEN_BRANCHES_MISPREDICTED : INTEL_ARCH_BRANCHES_MISPREDICTED;
}

static inline uint64_t vpmu_event_cycles(void)
{
	return host_cpu_is_amd ? AMD_ZEN_CORE_CYCLES : INTEL_ARCH_CPU_CYCLES;
}

/**
 * struct vpmu_config - the PMU that a guest gets, by CPUID leaf 0AH or 8000_0022H
 * @version: architectural version, 0 for no PMU (Intel only)
 * @nr_gp: general-purpose counters; on AMD, 6 or 4 in version 1
 * @nr_fixed: fixed counters
 * @gp_width: bits of a general-purpose counter, 0 for as many as KVM offers
 * @fixed_width: bits of a fixed counter, 0 for as many as KVM offers
 * @no_capabilities: IA32_PERF_CAPABILITIES is 0, so that there are no full-width writes
 * @no_metrics: IA32_PERF_CAPABILITIES is without PERF_METRICS, as by QEMU's default
 */
struct vpmu_config {
	uint8_t version;
	uint8_t nr_gp;
	uint8_t nr_fixed;
	uint8_t gp_width;
	uint8_t fixed_width;
	bool no_capabilities;
	bool no_metrics;
};

/* The largest PMU that KVM offers to guests now. */
struct vpmu_config vpmu_config_max(void);

/* The PMU of the processor, widths included. */
struct vpmu_config vpmu_config_host(void);

/*
 * Ends the program with a skip unless KVM offers a version 2 PMU: on Intel, or
 * on any processor. On AMD it takes the module, too: to KVM's own vPMU each
 * VMRUN is an instruction of the guest.
 */
void vpmu_require_intel(void);
void vpmu_require_exact(void);

/* The same without asking KVM, for who is about to change its answer. */
void vpmu_require_vendor(void);

/* Is the module loaded; and does it mediate, or was it told not to? */
bool vpmu_module_is_loaded(void);
bool vpmu_is_mediated(void);

/*
 * VM-exits with nothing to count after which a mediated PMU goes to rest, 0 for never:
 * sets what holds for VMs from now on, and returns what it was.
 */
unsigned int vpmu_rest_after(unsigned int exits);

/*
 * Has a mediated PMU, @config, of a vCPU that has not run yet be in hardware whenever its guest
 * runs, whether or not anything counts.
 */
void vpmu_stay_awake(struct kvm_vcpu *vcpu, const struct vpmu_config *config);

/*
 * A VM with one vCPU that has the PMU @config, full-width writes where KVM has
 * them, and VPMU_USER_GPA mapped one to one.
 */
struct kvm_vm *vpmu_vm_create(struct kvm_vcpu **vcpu, void *guest_code,
			      const struct vpmu_config *config);

/* A VM with one vCPU whose CPUID has no PMU, and never had one. */
struct kvm_vm *vpmu_vm_create_without_pmu(struct kvm_vcpu **vcpu, void *guest_code);

/*
 * Has the VM of @vcpu run without APICv. KVM gives that up where the local APIC
 * is not at its usual address, which matters to no guest in x2APIC mode.
 */
void vpmu_inhibit_apicv(struct kvm_vcpu *vcpu);

/* Sets the PMU of a vCPU that has not run yet, as CPUID tells of it. */
void vpmu_set_config(struct kvm_vcpu *vcpu, const struct vpmu_config *config);

/* The same for a new vCPU, with its IA32_PERF_CAPABILITIES. */
void vpmu_vcpu_init(struct kvm_vcpu *vcpu, const struct vpmu_config *config);

/*
 * KVM_SET_CPUID2 alone, of a vCPU's file descriptor: what KVM supports, with or
 * without a PMU. Returns 0 or -errno.
 */
int vpmu_fd_set_cpuid(int vcpu_fd, bool pmu);

/*
 * Has the processor counters that no guest can have: more than there are addresses for,
 * or fixed ones behind a gap?
 */
bool vpmu_host_has_more(void);

/*
 * Must RDPMC of any counter exit, since it reads counters that are no guest's: those
 * of AMD's data fabric and L3 cache?
 */
bool vpmu_rdpmc_must_exit(void);

/* What of IA32_PERF_CAPABILITIES KVM offers to guests, and these tests understand. */
uint64_t vpmu_capabilities_max(void);

/**
 * enum vpmu_stop - what vpmu_run() came back for
 * @VPMU_DONE: GUEST_DONE()
 * @VPMU_SYNC: GUEST_SYNC()
 * @VPMU_IO: port or memory-mapped I/O, which the next KVM_RUN completes
 */
enum vpmu_stop {
	VPMU_DONE,
	VPMU_SYNC,
	VPMU_IO,
};

/*
 * Runs the vCPU to its next ucall. Payloads get what they need on the way:
 * their I/O is answered, HLT goes on at the next signal. A guest assertion
 * fails the test.
 */
enum vpmu_stop vpmu_run(struct kvm_vcpu *vcpu);

/* As vpmu_run(), but comes back for the payload's I/O too. */
enum vpmu_stop vpmu_run_to_io(struct kvm_vcpu *vcpu);

/* Has the process interrupted by a signal now and then, or no more. */
void vpmu_signals_start(unsigned int usec);
void vpmu_signals_stop(void);

/* VM-exits of a vCPU up to now, but for those by interrupts of the host. */
uint64_t vpmu_exits(struct kvm_vcpu *vcpu);

/* Points the guest's IDT entry @vector at @handler itself. */
void vpmu_install_naked_handler(struct kvm_vm *vm, int vector, void *handler);

/* Where the module's file is, NULL if it was not found. */
const char *vpmu_module_path(void);

/* finit_module() and delete_module(), which return 0 or -errno; the same of the module. */
int module_load(const char *path, const char *params);
int module_unload(const char *name);
int vpmu_module_load(const char *params);
int vpmu_module_unload(void);

/* Guest: all registers of a version 2 PMU to zero. */
void guest_pmu_clear(void);

/*
 * Guest: all general-purpose counters count in kernel mode, instructions and
 * branches by turns, and so does fixed counter 0.  Returns the value of
 * GLOBAL_CTRL that sets them going.
 */
uint64_t guest_select_all(void);

/*
 * Guest: where there are fixed counters, else nothing: their IA32_FIXED_CTR_CTRL
 * is written; fixed counter 0, which counts instructions, has this bit in the
 * global registers, and is to hold so much.
 */
void guest_fixed_select(uint64_t ctrl);
uint64_t guest_fixed0_mask(void);
void guest_fixed0_expect(uint64_t count);

/* Guest: what CPUID says. */
static inline uint32_t guest_nr_gp(void)
{
	if (host_cpu_is_amd)
		return this_cpu_property(X86_PROPERTY_NR_PERFCTR_CORE);
	return this_cpu_property(X86_PROPERTY_PMU_NR_GP_COUNTERS);
}

static inline uint32_t guest_nr_fixed(void)
{
	if (host_cpu_is_amd)
		return 0;
	return this_cpu_property(X86_PROPERTY_PMU_NR_FIXED_COUNTERS);
}

static inline uint64_t guest_gp_mask(void)
{
	return BIT_ULL(guest_nr_gp()) - 1;
}

static inline uint64_t guest_fixed_mask(void)
{
	return (BIT_ULL(guest_nr_fixed()) - 1) << 32;
}

/* The bit of PERF_METRICS in the global registers, if the guest has that. */
static inline uint64_t guest_metrics_mask(void)
{
	if (host_cpu_is_amd || !this_cpu_has(X86_FEATURE_PDCM) ||
	    !(rdmsr(MSR_IA32_PERF_CAPABILITIES) & VPMU_CAP_METRICS) || guest_nr_fixed() < 4)
		return 0;
	return BIT_ULL(48);
}

/* Guest: all counters of a kind are one width. */
static inline uint64_t guest_counter_mask(void)
{
	if (host_cpu_is_amd)
		return BIT_ULL(VPMU_AMD_WIDTH) - 1;
	return BIT_ULL(this_cpu_property(X86_PROPERTY_PMU_GP_COUNTERS_BIT_WIDTH)) - 1;
}

#endif /* SELFTEST_VPMU_H */
