// SPDX-License-Identifier: GPL-2.0
/*
 * What the vPMU selftests share.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "vpmu.h"

static struct vpmu_config vpmu_amd_config(bool v2, uint32_t nr_core)
{
	return (struct vpmu_config) {
		.version = v2 ? 2 : 1,
		.nr_gp = v2 ? nr_core : 4,
		.gp_width = VPMU_AMD_WIDTH,
	};
}

struct vpmu_config vpmu_config_max(void)
{
	if (host_cpu_is_amd)
		return vpmu_amd_config(kvm_cpu_has(X86_FEATURE_PERFMON_V2),
				       kvm_cpu_property(X86_PROPERTY_NR_PERFCTR_CORE));

	return (struct vpmu_config) {
		.version = kvm_cpu_property(X86_PROPERTY_PMU_VERSION),
		.nr_gp = kvm_cpu_property(X86_PROPERTY_PMU_NR_GP_COUNTERS),
		.nr_fixed = kvm_cpu_property(X86_PROPERTY_PMU_NR_FIXED_COUNTERS),
	};
}

struct vpmu_config vpmu_config_host(void)
{
	if (host_cpu_is_amd)
		return vpmu_amd_config(this_cpu_has(X86_FEATURE_PERFMON_V2),
				       this_cpu_property(X86_PROPERTY_NR_PERFCTR_CORE));

	return (struct vpmu_config) {
		.version = this_cpu_property(X86_PROPERTY_PMU_VERSION),
		.nr_gp = this_cpu_property(X86_PROPERTY_PMU_NR_GP_COUNTERS),
		.nr_fixed = this_cpu_property(X86_PROPERTY_PMU_NR_FIXED_COUNTERS),
		.gp_width = this_cpu_property(X86_PROPERTY_PMU_GP_COUNTERS_BIT_WIDTH),
		.fixed_width = this_cpu_property(X86_PROPERTY_PMU_FIXED_COUNTERS_BIT_WIDTH),
	};
}

bool vpmu_host_has_more(void)
{
	const struct vpmu_config host = vpmu_config_host();

	if (host_cpu_is_amd)
		return host.nr_gp > 6;
	/* Version 5 also has a mask of fixed counters: those that exist. */
	return host.nr_gp > VPMU_MAX_GP || host.nr_fixed > VPMU_MAX_FIXED ||
	       this_cpu_property(X86_PROPERTY_PMU_FIXED_COUNTERS_BITMASK) >= BIT(host.nr_fixed);
}

void vpmu_require_intel(void)
{
	TEST_REQUIRE(host_cpu_is_intel);
	TEST_REQUIRE(kvm_is_pmu_enabled());
	TEST_REQUIRE(vpmu_config_max().version >= 2);
}

void vpmu_require_exact(void)
{
	vpmu_require_vendor();
	TEST_REQUIRE(kvm_is_pmu_enabled());
	TEST_REQUIRE(vpmu_config_max().version >= 2);
	if (host_cpu_is_amd)
		__TEST_REQUIRE(vpmu_is_mediated(), "needs " VPMU_MODULE_NAME);
}

void vpmu_require_vendor(void)
{
	TEST_REQUIRE(host_cpu_is_intel || host_cpu_is_amd);
}

bool vpmu_module_is_loaded(void)
{
	return !access("/sys/module/" VPMU_MODULE_NAME, F_OK);
}

bool vpmu_is_mediated(void)
{
	char value = 'N';
	int fd = open(VPMU_PARAM_PATH, O_RDONLY);

	if (fd < 0)
		return false;
	if (read(fd, &value, 1) != 1)
		value = 'N';
	close(fd);
	return value == 'Y';
}

unsigned int vpmu_rest_after(unsigned int exits)
{
	FILE *file = fopen(VPMU_REST_PATH, "r+");
	unsigned int before;

	TEST_ASSERT(file && fscanf(file, "%u", &before) == 1, "Cannot read " VPMU_REST_PATH);
	rewind(file);
	TEST_ASSERT(fprintf(file, "%u", exits) > 0 && !fclose(file), "Cannot write " VPMU_REST_PATH);
	return before;
}

static void vpmu_set_amd_config(struct kvm_vcpu *vcpu, const struct vpmu_config *config)
{
	const bool v2 = config->version >= 2;

	TEST_ASSERT(config->version, "On AMD KVM_PMU_CAP_DISABLE takes the PMU away");
	vcpu_set_or_clear_cpuid_feature(vcpu, X86_FEATURE_PERFMON_V2, v2);
	vcpu_set_or_clear_cpuid_feature(vcpu, X86_FEATURE_PERFCTR_CORE, v2 || config->nr_gp > 4);
	vcpu_set_cpuid_property(vcpu, X86_PROPERTY_NR_PERFCTR_CORE, v2 ? config->nr_gp : 0);
}

void vpmu_set_config(struct kvm_vcpu *vcpu, const struct vpmu_config *config)
{
	if (host_cpu_is_amd) {
		vpmu_set_amd_config(vcpu, config);
		return;
	}

	vcpu_set_cpuid_property(vcpu, X86_PROPERTY_PMU_NR_GP_COUNTERS, config->nr_gp);
	vcpu_set_cpuid_property(vcpu, X86_PROPERTY_PMU_NR_FIXED_COUNTERS, config->nr_fixed);
	vcpu_set_cpuid_property(vcpu, X86_PROPERTY_PMU_FIXED_COUNTERS_BITMASK, 0);
	if (config->gp_width)
		vcpu_set_cpuid_property(vcpu, X86_PROPERTY_PMU_GP_COUNTERS_BIT_WIDTH,
					config->gp_width);
	if (config->fixed_width)
		vcpu_set_cpuid_property(vcpu, X86_PROPERTY_PMU_FIXED_COUNTERS_BIT_WIDTH,
					config->fixed_width);
	vcpu_set_cpuid_property(vcpu, X86_PROPERTY_PMU_VERSION, config->version);
}

uint64_t vpmu_capabilities_max(void)
{
	if (!kvm_cpu_has(X86_FEATURE_PDCM))
		return 0;
	return kvm_get_feature_msr(MSR_IA32_PERF_CAPABILITIES) &
	       (PMU_CAP_FW_WRITES | VPMU_CAP_METRICS);
}

bool vpmu_rdpmc_must_exit(void)
{
	return this_cpu_has(X86_FEATURE_PERFCTR_NB) || this_cpu_has(X86_FEATURE_PERFCTR_LLC);
}

void vpmu_vcpu_init(struct kvm_vcpu *vcpu, const struct vpmu_config *config)
{
	/* Before the version: KVM takes no capabilities without a PMU. */
	if (kvm_cpu_has(X86_FEATURE_PDCM))
		vcpu_set_msr(vcpu, MSR_IA32_PERF_CAPABILITIES,
			     config->no_capabilities ? 0 : vpmu_capabilities_max() &
			     ~(config->no_metrics ? VPMU_CAP_METRICS : 0));
	vpmu_set_config(vcpu, config);
}

static void remove_pmu(struct kvm_cpuid2 *cpuid)
{
	struct kvm_cpuid_entry2 *entry;
	unsigned int i;

	for (i = 0; i < cpuid->nent; i++) {
		entry = &cpuid->entries[i];
		if (entry->function == X86_PROPERTY_PMU_VERSION.function)
			entry->eax = entry->ebx = entry->ecx = entry->edx = 0;
		if (entry->function == X86_FEATURE_PERFCTR_CORE.function)
			entry->ecx &= ~BIT(X86_FEATURE_PERFCTR_CORE.bit);
		if (entry->function == X86_FEATURE_PERFMON_V2.function)
			entry->eax &= ~BIT(X86_FEATURE_PERFMON_V2.bit);
	}
}

int vpmu_fd_set_cpuid(int vcpu_fd, bool pmu)
{
	const struct kvm_cpuid2 *supported = kvm_get_supported_cpuid();
	struct kvm_cpuid2 *cpuid = allocate_kvm_cpuid2(supported->nent);
	int r;

	memcpy(cpuid, supported, kvm_cpuid2_size(supported->nent));
	if (!pmu)
		remove_pmu(cpuid);
	r = ioctl(vcpu_fd, KVM_SET_CPUID2, cpuid) ? -errno : 0;
	free(cpuid);
	return r;
}

/*
 * The library gives a vCPU what KVM supports before anybody can say otherwise, and a
 * PMU is more than there may be. So have it believe that KVM supports none.
 */
struct kvm_vm *vpmu_vm_create_without_pmu(struct kvm_vcpu **vcpu, void *guest_code)
{
	struct kvm_cpuid2 *supported = (struct kvm_cpuid2 *)kvm_get_supported_cpuid();
	struct kvm_cpuid2 *saved = allocate_kvm_cpuid2(supported->nent);
	const size_t size = kvm_cpuid2_size(supported->nent);
	struct kvm_vm *vm;

	memcpy(saved, supported, size);
	remove_pmu(supported);
	vm = vm_create_with_one_vcpu(vcpu, guest_code);
	memcpy(supported, saved, size);
	free(saved);
	return vm;
}

void vpmu_stay_awake(struct kvm_vcpu *vcpu, const struct vpmu_config *config)
{
	const uint32_t selector = host_cpu_is_amd ? MSR_K7_EVNTSEL0 : MSR_P6_EVNTSEL0;
	unsigned int rest_after;

	if (!config->version || !vpmu_is_mediated())
		return;
	rest_after = vpmu_rest_after(0);
	vpmu_set_config(vcpu, config);
	vpmu_rest_after(rest_after);
	/* RESET has enabled the counter globally. */
	vcpu_set_msr(vcpu, selector, VPMU_SEL_OS(vpmu_event_insns()));
	vcpu_set_msr(vcpu, selector, 0);
}

struct kvm_vm *vpmu_vm_create(struct kvm_vcpu **vcpu, void *guest_code,
			      const struct vpmu_config *config)
{
	struct kvm_vm *vm = vm_create_with_one_vcpu(vcpu, guest_code);

	vpmu_vcpu_init(*vcpu, config);
	virt_map(vm, VPMU_USER_GPA, VPMU_USER_GPA, 1);
	return vm;
}

void vpmu_inhibit_apicv(struct kvm_vcpu *vcpu)
{
	const uint64_t elsewhere = 0xfee01000;
	struct kvm_sregs sregs;

	vcpu_sregs_get(vcpu, &sregs);
	sregs.apic_base = elsewhere | (sregs.apic_base & (PAGE_SIZE - 1));
	vcpu_sregs_set(vcpu, &sregs);
}

/* A halted vCPU has nothing to wake it but the program. */
static void vpmu_resume_halted(struct kvm_vcpu *vcpu)
{
	struct kvm_mp_state state;

	vcpu_mp_state_get(vcpu, &state);
	if (state.mp_state != KVM_MP_STATE_HALTED)
		return;
	state.mp_state = KVM_MP_STATE_RUNNABLE;
	vcpu_mp_state_set(vcpu, &state);
}

static bool vpmu_exit_is_io(struct kvm_vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	if (run->exit_reason == KVM_EXIT_IO)
		return run->io.port == VPMU_USER_PORT;
	return run->exit_reason == KVM_EXIT_MMIO &&
	       run->mmio.phys_addr - VPMU_USER_GPA < PAGE_SIZE;
}

static enum vpmu_stop vpmu_ucall(struct kvm_vcpu *vcpu)
{
	struct ucall uc;

	switch (get_ucall(vcpu, &uc)) {
	case UCALL_SYNC:
		return VPMU_SYNC;
	case UCALL_DONE:
		return VPMU_DONE;
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT(uc);
	default:
		TEST_FAIL("Unexpected ucall %lu, exit reason %s", uc.cmd,
			  exit_reason_str(vcpu->run->exit_reason));
	}
}

enum vpmu_stop vpmu_run_to_io(struct kvm_vcpu *vcpu)
{
	int r;

	do {
		r = __vcpu_run(vcpu);
		if (r && errno == EINTR)
			vpmu_resume_halted(vcpu);
	} while (r && errno == EINTR);
	TEST_ASSERT(!r, KVM_IOCTL_ERROR(KVM_RUN, r));

	if (vpmu_exit_is_io(vcpu))
		return VPMU_IO;
	return vpmu_ucall(vcpu);
}

enum vpmu_stop vpmu_run(struct kvm_vcpu *vcpu)
{
	enum vpmu_stop stop;

	do {
		stop = vpmu_run_to_io(vcpu);
	} while (stop == VPMU_IO);
	return stop;
}

static void vpmu_signal_handler(int sig)
{
}

static void vpmu_set_timer(unsigned int usec)
{
	struct itimerval it = {
		.it_interval.tv_usec = usec,
		.it_value.tv_usec = usec,
	};

	TEST_ASSERT(!setitimer(ITIMER_REAL, &it, NULL), "setitimer() failed");
}

void vpmu_signals_start(unsigned int usec)
{
	/* Without SA_RESTART, so that KVM_RUN comes back. */
	struct sigaction sa = { .sa_handler = vpmu_signal_handler };

	TEST_ASSERT(!sigaction(SIGALRM, &sa, NULL), "sigaction() failed");
	vpmu_set_timer(usec);
}

void vpmu_signals_stop(void)
{
	vpmu_set_timer(0);
}

uint64_t vpmu_exits(struct kvm_vcpu *vcpu)
{
	return vcpu_get_stat(vcpu, exits) - vcpu_get_stat(vcpu, irq_exits);
}

void vpmu_install_naked_handler(struct kvm_vm *vm, int vector, void *handler)
{
	struct idt_entry *idt = addr_gva2hva(vm, vm->arch.idt);
	uint64_t addr = (uint64_t)handler;

	idt[vector].offset0 = addr;
	idt[vector].offset1 = addr >> 16;
	idt[vector].offset2 = addr >> 32;
}

static const char *vpmu_path_if_readable(const char *path)
{
	return path && !access(path, R_OK) ? path : NULL;
}

const char *vpmu_module_path(void)
{
	static char beside[PATH_MAX], installed[PATH_MAX];
	struct utsname uts;
	ssize_t len;
	char *slash;

	if (getenv("KVM_MEDIATED_PMU_KO"))
		return vpmu_path_if_readable(getenv("KVM_MEDIATED_PMU_KO"));

	len = readlink("/proc/self/exe", beside, sizeof(beside) - sizeof(VPMU_MODULE_NAME) - 8);
	slash = len > 0 ? memrchr(beside, '/', len) : NULL;
	if (slash) {
		strcpy(slash, "/" VPMU_MODULE_NAME ".ko");
		if (vpmu_path_if_readable(beside))
			return beside;
	}

	uname(&uts);
	snprintf(installed, sizeof(installed),
		 "/lib/modules/%s/updates/" VPMU_MODULE_NAME ".ko", uts.release);
	return vpmu_path_if_readable(installed);
}

int module_load(const char *path, const char *params)
{
	int fd, r;

	fd = open(path, O_RDONLY | O_CLOEXEC);
	TEST_ASSERT(fd >= 0, "open(%s) failed", path);
	r = syscall(SYS_finit_module, fd, params, 0) ? -errno : 0;
	close(fd);
	return r;
}

int module_unload(const char *name)
{
	return syscall(SYS_delete_module, name, O_NONBLOCK) ? -errno : 0;
}

int vpmu_module_load(const char *params)
{
	const char *path = vpmu_module_path();

	TEST_ASSERT(path, "The module's file was not found");
	return module_load(path, params);
}

int vpmu_module_unload(void)
{
	return module_unload(VPMU_MODULE_NAME);
}

void guest_fixed_select(uint64_t ctrl)
{
	if (guest_nr_fixed())
		wrmsr(MSR_CORE_PERF_FIXED_CTR_CTRL, ctrl);
}

uint64_t guest_fixed0_mask(void)
{
	return guest_nr_fixed() ? FIXED_PMC_GLOBAL_CTRL_ENABLE(0) : 0;
}

void guest_fixed0_expect(uint64_t count)
{
	if (guest_nr_fixed())
		GUEST_ASSERT_EQ(_rdpmc(INTEL_RDPMC_FIXED), count);
}

void guest_pmu_clear(void)
{
	unsigned int i;

	wrmsr(vpmu_msr_global_ctrl(), 0);
	if (!host_cpu_is_amd)
		wrmsr(MSR_CORE_PERF_FIXED_CTR_CTRL, 0);
	for (i = 0; i < guest_nr_gp(); i++) {
		wrmsr(vpmu_msr_selector(i), 0);
		wrmsr(vpmu_msr_counter(i), 0);
	}
	for (i = 0; i < guest_nr_fixed(); i++)
		wrmsr(MSR_CORE_PERF_FIXED_CTR0 + i, 0);
	wrmsr(vpmu_msr_status_clear(), guest_gp_mask() | guest_fixed_mask());
}

uint64_t guest_select_all(void)
{
	unsigned int i;

	guest_pmu_clear();
	for (i = 0; i < guest_nr_gp(); i++)
		wrmsr(vpmu_msr_selector(i),
		      VPMU_SEL_OS(i % 2 ? vpmu_event_branches() : vpmu_event_insns()));
	guest_fixed_select(FIXED_PMC_KERNEL);
	return guest_gp_mask() | guest_fixed0_mask();
}
