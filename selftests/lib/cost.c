// SPDX-License-Identifier: GPL-2.0
/*
 * What something costs, counted by the emulator.
 */
#include "cost.h"
#include "emucost.h"

bool cost_is_available(void)
{
	return !emucost_open();
}

struct cost cost_now(int nr_cpus)
{
	struct cost cost = {};
	int cpu;

	emucost_latch();
	for (cpu = 0; cpu < nr_cpus; cpu++) {
		cost.insns += emucost_read(cpu, EMUCOST_HOST_INSNS);
		cost.wrmsr += emucost_read(cpu, EMUCOST_HOST_WRMSR);
		cost.rdmsr += emucost_read(cpu, EMUCOST_HOST_RDMSR);
		cost.rdpmc += emucost_read(cpu, EMUCOST_HOST_RDPMC);
		cost.exits += emucost_read(cpu, EMUCOST_VMEXITS);
	}
	return cost;
}

struct cost cost_between(const struct cost *from, const struct cost *to)
{
	return (struct cost) {
		.insns = to->insns - from->insns,
		.wrmsr = to->wrmsr - from->wrmsr,
		.rdmsr = to->rdmsr - from->rdmsr,
		.rdpmc = to->rdpmc - from->rdpmc,
		.exits = to->exits - from->exits,
	};
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

void cost_raise_in_guests(int cpu, uint64_t insns, uint64_t status)
{
	emucost_raise(cpu, EMUCOST_IN_GUESTS, insns, status);
}

uint64_t cost_raised(void)
{
	emucost_latch();
	return emucost_read_all(EMUCOST_RAISED);
}

uint64_t cost_pmi_delay(void)
{
	emucost_latch();
	return emucost_read(0, EMUCOST_PMI_DELAY);
}
