/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The host's own perf events, for the vPMU selftests.
 */
#ifndef SELFTEST_HOST_EVENT_H
#define SELFTEST_HOST_EVENT_H

#include <linux/perf_event.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Instructions of user space, nothing of guests; does not count yet. */
struct perf_event_attr host_event_attr(void);

/*
 * Is there a monitoring agent? Its events compete for counters, so that one that is to
 * have a counter all of its time has to be pinned. $VPMU_BESIDE_EVENTS says so.
 */
bool host_has_agent(void);

/* perf_event_open(); the new file descriptor or -errno. */
int host_event_open(struct perf_event_attr *attr, pid_t pid, int cpu);

/* The same for an event that has to open. */
int host_event_open_ok(struct perf_event_attr *attr, pid_t pid, int cpu);

/**
 * struct host_count - what read() of an event yields
 * @value: events
 * @enabled: nanoseconds that it was enabled for
 * @running: nanoseconds thereof that it had a counter
 */
struct host_count {
	uint64_t value;
	uint64_t enabled;
	uint64_t running;
};

struct host_count host_event_read(int fd);
void host_event_enable(int fd);
void host_event_disable(int fd);

/* Two instructions per round and nothing else that depends on @rounds. */
#define HOST_LOOP_INSNS	2
static inline void host_loop(uint64_t rounds)
{
	asm volatile("1: dec %0\n\t"
		     "jnz 1b\n\t"
		     : "+r"(rounds) : : "cc");
}

/* What event @fd of the calling thread counts of host_loop(). */
uint64_t host_loop_count(int fd, uint64_t rounds);

/*
 * What it counts beside the loop: the least of some tries, for an interrupt may
 * add to each.
 */
uint64_t host_loop_frame(int fd);

/*
 * The buffer of a sampling event, until host_records_unmap(); and how many records of
 * @type are in it, PERF_RECORD_MAX for those of all types. None may be lost: it holds
 * some ten thousand samples of 16 bytes.
 */
struct perf_event_mmap_page *host_records_map(int fd);
void host_records_unmap(struct perf_event_mmap_page *page);
uint64_t host_records(const struct perf_event_mmap_page *page, uint32_t type);

/* The first CPUs that the process may run on; returns how many, @max at most. */
int host_cpus(int *cpus, int max);

/* How many interrupts of that name, in /proc/interrupts, @cpu has had. */
uint64_t host_interrupts(const char *name, int cpu);

/* Interrupts of the whole machine since boot, of /proc/stat. */
uint64_t host_all_interrupts(void);

/*
 * A count of user mode is to be what was expected. On AMD the IRET at the end of
 * each interrupt may be in it, which belongs to where it returns to;
 * @irqs_before is host_all_interrupts() of before the count.
 */
void host_expect_count(uint64_t count, uint64_t expected, uint64_t irqs_before);

#endif /* SELFTEST_HOST_EVENT_H */
