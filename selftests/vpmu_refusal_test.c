// SPDX-License-Identifier: GPL-2.0
/*
 * Whoever is refused is told why: each error of the module, by its number and by
 * the one line that the kernel's log has of it.
 *
 * The module is loaded when the program starts and when it ends. KVM itself is
 * unloaded and loaded in between where its files lie beside the module's, as on
 * the emulated host; no VM may be running meanwhile. On a host that the module
 * cannot be loaded on, that is what is tested.
 */
#include <errno.h>
#include <limits.h>

#include "host_event.h"
#include "kmsg.h"
#include "lend.h"
#include "vpmu.h"
#include "vpmu_harness.h"

#define PREFIX		VPMU_MODULE_NAME ": "

/* More than the kernel prints at a stretch (DEFAULT_RATELIMIT_BURST). */
#define NR_REFUSALS	25
#define MAX_MESSAGES	10

/**
 * struct vendor - what differs between the vendors
 * @name: what the module calls it
 * @module: KVM's module
 * @file: that module's file
 * @lacks: what a host lacks whose PMU has not got that version
 */
static const struct vendor {
	const char *name;
	const char *module;
	const char *file;
	struct {
		unsigned int version;
		const char *text;
	} lacks[2];
} intel = {
	.name = "Intel",
	.module = "kvm_intel",
	.file = "kvm-intel.ko",
	.lacks = {
		{ 4, "architectural performance monitoring version 4" },
		{ 1, "full-width counter writes (PERF_CAPABILITIES.FW_WRITE)" },
	},
}, amd = {
	.name = "AMD",
	.module = "kvm_amd",
	.file = "kvm-amd.ko",
	.lacks = {
		{ 2, "PerfMonV2" },
	},
};

static const struct vendor *vendor;

/* The module was there when the program was started. */
static bool mediates;

static bool is_loaded(const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/module/%s/refcnt", name);
	return !access(path, F_OK);
}

/* A module of KVM whose file lies beside the module's, NULL if there is none. */
static const char *beside(const char *file)
{
	static char path[PATH_MAX];
	const char *module = vpmu_module_path();
	const char *slash = module ? strrchr(module, '/') : NULL;

	if (!slash)
		return NULL;
	snprintf(path, sizeof(path), "%.*s/%s", (int)(slash - module), module, file);
	return access(path, R_OK) ? NULL : path;
}

static void load_kvm(const char *params)
{
	if (!is_loaded("kvm"))
		TEST_ASSERT_EQ(module_load(beside("kvm.ko"), params), 0);
	if (!is_loaded(vendor->module))
		TEST_ASSERT_EQ(module_load(beside(vendor->file), ""), 0);
}

static void unload_kvm(void)
{
	TEST_ASSERT_EQ(module_unload(vendor->module), 0);
	TEST_ASSERT_EQ(module_unload("kvm"), 0);
}

/* A test that fails ends its process on the spot; who comes next wants KVM and the module. */
static void leave_loaded(void)
{
	if (beside("kvm.ko") && beside(vendor->file))
		load_kvm("");
	if (!vpmu_module_is_loaded())
		vpmu_module_load("");
}

/* The module is unloaded at the start of each test, and loaded at its end. */
FIXTURE(refusal) {
	struct kmsg kmsg;
};

FIXTURE_SETUP(refusal)
{
	if (!mediates)
		SKIP(return, "needs " VPMU_MODULE_NAME);
	if (vpmu_module_is_loaded())
		TEST_ASSERT_EQ(vpmu_module_unload(), 0);
	kmsg_start(&self->kmsg);
}

FIXTURE_TEARDOWN(refusal)
{
	kmsg_stop(&self->kmsg);
	leave_loaded();
	TEST_ASSERT(vpmu_is_mediated(), "The module cannot be loaded any more");
}

/* One line, and it is this. That modules taint the kernel is said once, and not by us. */
static void expect_message(struct kmsg *kmsg, const char *text)
{
	unsigned int nr = kmsg_count(kmsg, PREFIX) - kmsg_count(kmsg, "taint");

	TEST_ASSERT(nr == 1 && kmsg_count(kmsg, text) == 1,
		    "Expected one line \"%s\", found:\n%s", text, kmsg->text);
}

/* The same of KVM, of whose lines there may be others. */
static void expect_kvm_message(struct kmsg *kmsg, const char *text)
{
	TEST_ASSERT(kmsg_count(kmsg, text) == 1, "Expected one line \"%s\", found:\n%s", text,
		    kmsg->text);
}

/* The module does not load, says so, and is not there. */
static void expect_refused(struct kmsg *kmsg, int error, const char *text)
{
	int r = vpmu_module_load("");

	TEST_ASSERT(r == error, "finit_module(): %s, expected %s", strerror(-r), strerror(-error));
	TEST_ASSERT(!vpmu_module_is_loaded(), "The module is there all the same");
	expect_message(kmsg, text);
}

/* What it says when nothing is wrong. */
TEST_F(refusal, none)
{
	const struct vpmu_config host = vpmu_config_host();
	char text[256];

	snprintf(text, sizeof(text),
		 PREFIX "%s mediated vPMU enabled: %u general-purpose and %u fixed counters of %u bits, host PMU version %u%s",
		 vendor->name, min_t(unsigned int, host.nr_gp, VPMU_MAX_GP),
		 min_t(unsigned int, host.nr_fixed, VPMU_MAX_FIXED), host.gp_width, host.version,
		 vpmu_host_has_more() ? "; RDPMC and GLOBAL_CTRL exit in every guest, for none can have the host's counters: " : "\n");
	TEST_ASSERT_EQ(vpmu_module_load(""), 0);
	expect_message(&self->kmsg, text);
}

TEST_F(refusal, by_parameter)
{
	TEST_ASSERT_EQ(vpmu_module_load("enable_mediated_pmu=0"), 0);
	expect_message(&self->kmsg, PREFIX "disabled by enable_mediated_pmu=0; virtual machines keep KVM's emulated PMU\n");
	TEST_ASSERT_EQ(vpmu_module_unload(), 0);
}

/* Another backend is first: of it we know that it takes no vCPU. */
TEST_F(refusal, other_backend)
{
	struct lend lend;
	struct kvm_vm *vm;
	int r;

	LEND_REQUIRE();
	lend = lend_open();
	TEST_ASSERT_EQ(lend_backend_register(&lend), 0);
	expect_refused(&self->kmsg, -EBUSY, PREFIX "not loaded: KVM has another vPMU backend\n");

	vm = vm_create(1);
	r = __vm_ioctl(vm, KVM_CREATE_VCPU, (void *)0ul);
	TEST_ASSERT(r < 0 && errno == LEND_BACKEND_ERROR, KVM_IOCTL_ERROR(KVM_CREATE_VCPU, r));
	kvm_vm_free(vm);
	lend_backend_unregister(&lend);

	/* ... and comes too late if it is second. */
	TEST_ASSERT_EQ(vpmu_module_load(""), 0);
	TEST_ASSERT_EQ(lend_backend_register(&lend), -EBUSY);
	lend_close(&lend);
}

TEST_F(refusal, by_kvm)
{
	struct lend lend;

	LEND_REQUIRE();
	lend = lend_open();
	lend_fail_start(&lend, "kvm_vpmu_register_backend", -ENOMEM);
	expect_refused(&self->kmsg, -ENOMEM, PREFIX "not loaded: KVM refuses the backend, error -12\n");
	TEST_ASSERT_EQ(lend_fail_stop(&lend), 1);
	lend_close(&lend);
}

TEST_F(refusal, no_vendor_module)
{
	if (!beside(vendor->file))
		SKIP(return, "needs %s beside the module", vendor->file);
	TEST_ASSERT_EQ(module_unload(vendor->module), 0);
	expect_refused(&self->kmsg, -ENODEV, PREFIX "not loaded: KVM has no vendor module; load kvm_intel or kvm_amd first\n");
}

TEST_F(refusal, kvm_without_pmu)
{
	if (!beside("kvm.ko") || !beside(vendor->file))
		SKIP(return, "needs kvm.ko and %s beside the module", vendor->file);
	unload_kvm();
	load_kvm("enable_pmu=0");
	expect_refused(&self->kmsg, -EOPNOTSUPP,
		       PREFIX "not loaded: this host lacks KVM's PMU support (kvm.enable_pmu=1)\n");
	unload_kvm();
}

/* KVM_SET_CPUID2 with a PMU, often; how often it failed with @error. */
static unsigned int give_pmus(int error, unsigned int nr)
{
	struct kvm_vm *vm = vm_create(1);
	int fd = __vm_ioctl(vm, KVM_CREATE_VCPU, (void *)0ul);
	unsigned int failed = 0;

	TEST_ASSERT(fd >= 0, KVM_IOCTL_ERROR(KVM_CREATE_VCPU, fd));
	while (nr--)
		failed += vpmu_fd_set_cpuid(fd, true) == -error;
	close(fd);
	kvm_vm_free(vm);
	return failed;
}

/* All that is missing is in the one line. */
TEST(host_lacks)
{
	const struct vpmu_config host = vpmu_config_host();
	struct kvm_vm *vm;
	struct kmsg kmsg;
	bool lacks = false;
	unsigned int i;
	int r;

	for (i = 0; i < ARRAY_SIZE(vendor->lacks); i++)
		lacks |= host.version < vendor->lacks[i].version;
	if (!lacks)
		SKIP(return, "this host lacks nothing");
	kmsg_start(&kmsg);
	r = vpmu_module_load("");
	TEST_ASSERT(r == -EOPNOTSUPP, "finit_module(): %s", strerror(-r));
	TEST_ASSERT(!vpmu_module_is_loaded(), "The module is there all the same");
	expect_message(&kmsg, PREFIX "not loaded: this host lacks ");
	for (i = 0; i < ARRAY_SIZE(vendor->lacks); i++) {
		if (host.version < vendor->lacks[i].version)
			expect_message(&kmsg, vendor->lacks[i].text);
	}
	kmsg_stop(&kmsg);

	/* KVM does without. */
	vm = vm_create(1);
	vm_vcpu_add(vm, 0, NULL);
	kvm_vm_free(vm);
}

/*
 * An event that is refused is told which VM is in its way. This comes before the reverse, which
 * uses up what the log takes of such lines.
 */
TEST_F(refusal, vm_in_the_way)
{
	const struct vpmu_config config = vpmu_config_max();
	struct perf_event_attr attr = host_event_attr();
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	char who[128];
	int fd;

	snprintf(who, sizeof(who),
		 "is refused an event that includes guests: %.15s[%d] was the last to give a guest the PMU\n",
		 program_invocation_short_name, getpid());
	TEST_ASSERT_EQ(vpmu_module_load(""), 0);
	kmsg_stop(&self->kmsg);
	kmsg_start(&self->kmsg);
	vm = vpmu_vm_create(&vcpu, NULL, &config);
	fd = host_event_open_ok(&attr, 0, -1);
	close(fd);
	TEST_ASSERT_EQ(kmsg_count(&self->kmsg, "is refused"), 0);
	attr.exclude_guest = 0;
	TEST_ASSERT_EQ(host_event_open(&attr, 0, -1), -EOPNOTSUPP);
	TEST_ASSERT(kmsg_count(&self->kmsg, who) == 1, "Expected one line \"%s\", found:\n%s", who,
		    self->kmsg.text);
	kvm_vm_free(vm);
	fd = host_event_open_ok(&attr, 0, -1);
	close(fd);
}

TEST_F(refusal, event_in_the_way)
{
	static const char text[] = "kvm: no PMU for a VM: a perf event that includes guests is in use; end what has it open, or have it set exclude_guest (perf: event:H)\n";
	struct perf_event_attr attr = host_event_attr();
	unsigned int nr;
	char who[128];
	int fd;

	snprintf(who, sizeof(who), "[%d] was the last to open an event that includes guests",
		 getpid());
	TEST_ASSERT_EQ(vpmu_module_load(""), 0);
	/* What it says of itself. */
	kmsg_stop(&self->kmsg);
	kmsg_start(&self->kmsg);
	attr.exclude_guest = 0;
	fd = host_event_open_ok(&attr, 0, -1);
	TEST_ASSERT_EQ(give_pmus(EBUSY, 1), 1);
	expect_kvm_message(&self->kmsg, text);
	TEST_ASSERT(kmsg_count(&self->kmsg, who), "Nobody says who is in the way");

	/* Whoever tries again and again does not fill the log. */
	TEST_ASSERT_EQ(give_pmus(EBUSY, NR_REFUSALS), NR_REFUSALS);
	close(fd);
	nr = kmsg_count(&self->kmsg, text);
	TEST_ASSERT(nr <= MAX_MESSAGES, "%u messages of %u refusals", nr, 1 + NR_REFUSALS);
	TEST_ASSERT_EQ(give_pmus(EBUSY, 1), 0);
}

TEST_F(refusal, by_perf)
{
	struct lend lend;

	LEND_REQUIRE();
	TEST_ASSERT_EQ(vpmu_module_load(""), 0);
	kmsg_stop(&self->kmsg);
	kmsg_start(&self->kmsg);
	lend = lend_open();
	lend_fail_start(&lend, "perf_create_mediated_pmu", -EIO);
	TEST_ASSERT_EQ(give_pmus(EIO, 1), 1);
	/* When the vCPU is created, in vain, and when it gets its PMU. */
	TEST_ASSERT_EQ(lend_fail_stop(&lend), 2);
	expect_kvm_message(&self->kmsg, "kvm: no PMU for a VM: perf has none to lend\n");
	lend_close(&lend);
}

int main(int argc, char *argv[])
{
	/* Nothing of the library that keeps a file of KVM's open. */
	vpmu_require_vendor();
	__TEST_REQUIRE(vpmu_module_path(), "needs the file of " VPMU_MODULE_NAME);
	vendor = host_cpu_is_amd ? &amd : &intel;
	mediates = vpmu_is_mediated();
	if (mediates)
		atexit(leave_loaded);
	return test_harness_run(argc, argv);
}
