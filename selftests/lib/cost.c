// SPDX-License-Identifier: GPL-2.0
/*
 * What a call costs, counted by the emulator.
 */
#include "cost.h"
#include "emucost.h"

bool cost_is_available(void)
{
	return !emucost_open();
}

static uint64_t host_insns(int cpu)
{
	emucost_latch();
	return emucost_read(cpu, EMUCOST_HOST_INSNS);
}

static uint64_t cost_once(int cpu, void (*call)(void *), void *arg)
{
	uint64_t before = host_insns(cpu);

	call(arg);
	return host_insns(cpu) - before;
}

static void nothing(void *arg)
{
}

uint64_t cost_host_insns(int cpu, int rounds, void (*call)(void *), void *arg)
{
	uint64_t cost, frame, best = UINT64_MAX, least = UINT64_MAX;

	while (rounds--) {
		frame = cost_once(cpu, nothing, arg);
		cost = cost_once(cpu, call, arg);
		least = frame < least ? frame : least;
		best = cost < best ? cost : best;
	}
	return best - least;
}
