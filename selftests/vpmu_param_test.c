// SPDX-License-Identifier: GPL-2.0
/*
 * The module's parameter enable_mediated_pmu: what it takes, what sysfs shows,
 * and what it does to guests.
 *
 * The module is loaded when the program starts and when it ends; no VM may be
 * running meanwhile.
 */
#include <errno.h>
#include <sys/stat.h>

#include "host_event.h"
#include "vpmu.h"
#include "vpmu_harness.h"

#define PARAM	"enable_mediated_pmu"

/* A test that fails ends its process on the spot; who comes next wants the module. */
static void leave_loaded(void)
{
	if (!vpmu_module_is_loaded())
		vpmu_module_load("");
}

static void begin_without_module(void)
{
	if (vpmu_module_is_loaded())
		TEST_ASSERT_EQ(vpmu_module_unload(), 0);
}

static void end_with_module(void)
{
	if (vpmu_module_is_loaded())
		vpmu_module_unload();
	TEST_ASSERT_EQ(vpmu_module_load(""), 0);
}

/* The module is unloaded at the start of each test, and loaded at its end. */
FIXTURE(param) { };

FIXTURE_SETUP(param)
{
	begin_without_module();
}

FIXTURE_TEARDOWN(param)
{
	end_with_module();
}

FIXTURE_VARIANT(param) {
	const char *params;
	bool enabled;
};

#define VARIANT(_name, _params, _enabled)					\
FIXTURE_VARIANT_ADD(param, _name) { .params = _params, .enabled = _enabled }

VARIANT(absent, "", true);
VARIANT(no_value, PARAM, true);
VARIANT(one, PARAM "=1", true);
VARIANT(y, PARAM "=y", true);
VARIANT(Y, PARAM "=Y", true);
VARIANT(on, PARAM "=on", true);
VARIANT(ON, PARAM "=ON", true);
VARIANT(zero, PARAM "=0", false);
VARIANT(n, PARAM "=n", false);
VARIANT(N, PARAM "=N", false);
VARIANT(off, PARAM "=off", false);
VARIANT(OFF, PARAM "=OFF", false);

static char shown_in_sysfs(void)
{
	char text[8] = "";
	FILE *f = fopen(VPMU_PARAM_PATH, "r");

	TEST_ASSERT(f, "No " VPMU_PARAM_PATH);
	TEST_ASSERT(fgets(text, sizeof(text), f), VPMU_PARAM_PATH " is empty");
	fclose(f);
	TEST_ASSERT(!strcmp(text + 1, "\n"), "Not one letter and a newline");
	return text[0];
}

/* A VM that mediates is in the way of events that include guests. */
static bool vm_mediates(void)
{
	struct perf_event_attr attr = host_event_attr();
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int fd;

	attr.exclude_guest = 0;
	vm = vm_create_with_one_vcpu(&vcpu, NULL);
	fd = host_event_open(&attr, 0, -1);
	if (fd >= 0)
		close(fd);
	else
		TEST_ASSERT_EQ(fd, -EOPNOTSUPP);
	kvm_vm_free(vm);
	return fd < 0;
}

TEST_F(param, value)
{
	struct stat st;

	TEST_ASSERT_EQ(vpmu_module_load(variant->params), 0);
	TEST_ASSERT_EQ(shown_in_sysfs(), variant->enabled ? 'Y' : 'N');
	TEST_ASSERT(!stat(VPMU_PARAM_PATH, &st), "stat() failed");
	TEST_ASSERT((st.st_mode & 0777) == 0444, "Mode %o, expected 444", st.st_mode & 0777);
	TEST_ASSERT(vm_mediates() == variant->enabled, "VMs do not go by the parameter");
	TEST_ASSERT_EQ(vpmu_module_unload(), 0);
	TEST_ASSERT(!vm_mediates(), "VMs are mediated without the module");
}

FIXTURE(bad_param) { };

FIXTURE_SETUP(bad_param)
{
	begin_without_module();
}

FIXTURE_TEARDOWN(bad_param)
{
	end_with_module();
}

FIXTURE_VARIANT(bad_param) {
	const char *params;
};

FIXTURE_VARIANT_ADD(bad_param, two) { .params = PARAM "=2" };
FIXTURE_VARIANT_ADD(bad_param, minus_one) { .params = PARAM "=-1" };
FIXTURE_VARIANT_ADD(bad_param, word) { .params = PARAM "=mediated" };
FIXTURE_VARIANT_ADD(bad_param, letter_o) { .params = PARAM "=o" };
FIXTURE_VARIANT_ADD(bad_param, empty) { .params = PARAM "=" };

TEST_F(bad_param, is_refused)
{
	TEST_ASSERT_EQ(vpmu_module_load(variant->params), -EINVAL);
	TEST_ASSERT(!vpmu_module_is_loaded(), "The module is there all the same");
	TEST_ASSERT(!vm_mediates(), "VMs are mediated by a module that did not load");
}

int main(int argc, char *argv[])
{
	vpmu_require_exact();
	__TEST_REQUIRE(vpmu_is_mediated(), "needs " VPMU_MODULE_NAME);
	__TEST_REQUIRE(vpmu_module_path(), "needs the file of " VPMU_MODULE_NAME);
	atexit(leave_loaded);
	return test_harness_run(argc, argv);
}
