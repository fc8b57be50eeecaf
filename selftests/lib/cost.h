/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What a call costs, counted by the emulator that the tests run in. Apart from
 * emucost.h because the C library's port I/O and that of KVM's selftests don't
 * go together.
 */
#ifndef SELFTEST_COST_H
#define SELFTEST_COST_H

#include <stdbool.h>
#include <stdint.h>

/* Are there cost counters? From then on the calling process may use them. */
bool cost_is_available(void);

/*
 * Instructions that @cpu retires outside of guests while @call runs, the least
 * of @rounds, so that an interrupt in between doesn't matter. The caller has
 * to run on @cpu.
 */
uint64_t cost_host_insns(int cpu, int rounds, void (*call)(void *), void *arg);

#endif /* SELFTEST_COST_H */
