// SPDX-License-Identifier: GPL-2.0
/*
 * Another kernel, while guests have the PMUs of processors.
 *
 *   vpmu_kexec kexec|crash KERNEL INITRD COMMAND-LINE
 *
 * runs a guest whose counters count on each processor but the first, and on the
 * first one that has come back to its VMM. Goes on with KERNEL, on purpose or by
 * a panic. What is to be found there is for somebody else to see: scripts/kexec of
 * the project.
 */
#include <fcntl.h>
#include <linux/kexec.h>
#include <linux/reboot.h>
#include <stdio.h>
#include <sys/syscall.h>

#include "apic.h"
#include "host_event.h"
#include "host_sysctl.h"
#include "runner.h"
#include "vpmu.h"

#define APIC_LVTPC	0x340
#define MAX_GUESTS	8

/*
 * Counters that count all the time, and would interrupt if they lived to overflow. The guest
 * doesn't exit by itself: it has the PMU when its processor is stopped.
 */
static void guest_counts(void)
{
	unsigned int i;

	x2apic_enable();
	guest_pmu_clear();
	x2apic_write_reg(APIC_LVTPC, APIC_DM_FIXED | 0x52);
	for (i = 0; i < guest_nr_gp(); i++)
		wrmsr(vpmu_msr_selector(i), VPMU_SEL_OS(vpmu_event_insns()) |
		      ARCH_PERFMON_EVENTSEL_INT);
	guest_fixed_select(FIXED_PMC_KERNEL);
	wrmsr(vpmu_msr_global_ctrl(), guest_gp_mask() | guest_fixed_mask());
	GUEST_SYNC(0);
	for (;;)
		cpu_relax();
}

struct guest {
	struct kvm_vcpu *vcpu;
	int cpu;
	atomic_bool counts;
	pthread_t thread;
};

static void *guest_thread(void *arg)
{
	struct guest *g = arg;

	pin_self_to_cpu(g->cpu);
	TEST_ASSERT_EQ(vpmu_run(g->vcpu), VPMU_SYNC);
	g->counts = true;
	vpmu_run(g->vcpu);
	return NULL;
}

static void start_guest(struct guest *g, int cpu)
{
	const struct vpmu_config config = vpmu_config_max();

	g->cpu = cpu;
	vpmu_vm_create(&g->vcpu, guest_counts, &config);
	TEST_ASSERT(!pthread_create(&g->thread, NULL, guest_thread, g), "pthread_create() failed");
	while (!g->counts)
		usleep(1000);
}

static void leave_guest(void)
{
	const struct vpmu_config config = vpmu_config_max();
	struct kvm_vcpu *vcpu;

	vpmu_vm_create(&vcpu, guest_counts, &config);
	TEST_ASSERT_EQ(vpmu_run(vcpu), VPMU_SYNC);
}

static void load_kernel(char **argv, unsigned long flags)
{
	int kernel = open(argv[0], O_RDONLY), initrd = open(argv[1], O_RDONLY);

	TEST_ASSERT(kernel >= 0 && initrd >= 0, "Cannot open %s or %s", argv[0], argv[1]);
	TEST_ASSERT(!syscall(SYS_kexec_file_load, kernel, initrd, strlen(argv[2]) + 1, argv[2], flags),
		    "kexec_file_load() failed: %s", strerror(errno));
}

static int go_on(bool crash, char **argv)
{
	static struct guest guests[MAX_GUESTS];
	int cpus[MAX_GUESTS + 1], nr = host_cpus(cpus, MAX_GUESTS + 1), i;

	TEST_REQUIRE(vpmu_is_mediated());
	TEST_ASSERT(nr > 1, "Needs two processors");
	load_kernel(argv, crash ? KEXEC_FILE_ON_CRASH : 0);
	for (i = 1; i < nr; i++)
		start_guest(&guests[i - 1], cpus[i]);
	pin_self_to_cpu(cpus[0]);
	usleep(10000);
	leave_guest();
	if (crash)
		host_sysfs_write("/proc/sysrq-trigger", "c");
	else
		syscall(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2,
			LINUX_REBOOT_CMD_KEXEC, NULL);
	fprintf(stderr, "No other kernel took over: %s\n", strerror(errno));
	return KSFT_FAIL;
}

int main(int argc, char *argv[])
{
	if (argc == 5 && (!strcmp(argv[1], "kexec") || !strcmp(argv[1], "crash")))
		return go_on(argv[1][0] == 'c', argv + 2);
	fprintf(stderr, "usage: %s kexec|crash KERNEL INITRD COMMAND-LINE\n", argv[0]);
	return KSFT_FAIL;
}
