/* SPDX-License-Identifier: GPL-2.0 */
/*
 * MSRs of the host's processors, by the msr driver.
 */
#ifndef SELFTEST_HOST_MSR_H
#define SELFTEST_HOST_MSR_H

#include <stdbool.h>
#include <stdint.h>

/* Is there a driver, and may this process read the MSRs of @cpu? */
bool host_msr_is_available(int cpu);

/* These must not fail. */
uint64_t host_msr_read(int cpu, uint32_t msr);
void host_msr_write(int cpu, uint32_t msr, uint64_t value);

#endif /* SELFTEST_HOST_MSR_H */
