/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The kselftest harness with time enough for emulated and debugging kernels.
 * Each test runs in a process of its own; what TEST_ASSERT() and the guest's
 * assertions find fails that test and no other.
 */
#ifndef SELFTEST_VPMU_HARNESS_H
#define SELFTEST_VPMU_HARNESS_H

#include "kselftest_harness.h"

#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT 300

/* Skips the test that it stands in unless the module mediates. */
#define VPMU_REQUIRE_MEDIATED()							\
do {										\
	if (!vpmu_is_mediated())						\
		SKIP(return, "needs " VPMU_MODULE_NAME);			\
} while (0)

#endif /* SELFTEST_VPMU_HARNESS_H */
