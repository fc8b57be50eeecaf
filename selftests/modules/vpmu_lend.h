/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * What vpmu_lend.ko and the programs that use it agree on, see vpmu_lend.c.
 */
#ifndef VPMU_LEND_H
#define VPMU_LEND_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define LEND_DEVICE	"/dev/vpmu_lend"
#define LEND_NR_SELS	8

/**
 * struct lend_regs - the PMU of one CPU, as it is found
 * @global_ctrl: IA32_PERF_GLOBAL_CTRL, or AMD's PerfCntrGlobalCtl
 * @global_status: IA32_PERF_GLOBAL_STATUS, or AMD's PerfCntrGlobalStatus
 * @fixed_ctrl: IA32_FIXED_CTR_CTRL, 0 on AMD
 * @sels: IA32_PERFEVTSELx, or AMD's PERF_CTLx
 * @lvtpc: the local APIC's register, delivery status excluded
 */
struct lend_regs {
	__u64 global_ctrl;
	__u64 global_status;
	__u64 fixed_ctrl;
	__u64 sels[LEND_NR_SELS];
	__u32 lvtpc;
	__u32 unused;
};

/* What happens while the PMU is lent. */
#define LEND_OVERFLOW	(1u << 0)	/* a counter overflows, see below; status is left clean */
#define LEND_NMI	(1u << 1)	/* an NMI comes that has nothing to do with the PMU */
#define LEND_WAKE	(1u << 2)	/* sched:sched_waking is hit LEND_NR_WAKES times */
#define LEND_LATE_NMI	(1u << 3)	/* an NMI comes that only perf may claim */
#define LEND_NR_WAKES	10

/* The bit of the counter that overflows: fixed counter 0, on AMD counter 0. */
#define LEND_OVERFLOW_BIT(_amd)	(1ull << ((_amd) ? 0 : 32))

/**
 * struct lend_run - LEND_RUN: lend the CPU's PMU once
 * @nsecs: for so long, or until struct lend_page says otherwise
 * @lvtpc: the guest's LVTPC
 * @flags: LEND_*
 * @times: when perf_load_guest_context() was called and came back, and when
 *	   perf_put_guest_context() was called and came back, by perf's clock
 * @before: the PMU before the load
 * @loaded: ... after the load
 * @leaving: ... before the put
 * @after: ... after the put
 * @nr_nmis: NMIs that came to be as @flags said
 * @nr_unknown_nmis: late ones that nobody has claimed
 */
struct lend_run {
	__u64 nsecs;
	__u32 lvtpc;
	__u32 flags;
	__u64 times[4];
	struct lend_regs before;
	struct lend_regs loaded;
	struct lend_regs leaving;
	struct lend_regs after;
	__u32 nr_nmis;
	__u32 nr_unknown_nmis;
};

/**
 * struct lend_page - what is seen and said while the PMU is lent, by mmap()
 * @inside: how often the PMU has been lent, odd while it is
 * @leave: not zero: take it back now
 */
struct lend_page {
	__u32 inside;
	__u32 leave;
};

/**
 * struct lend_watch - LEND_WATCH_START, LEND_WATCH_STOP: watch who else lends the PMU
 * @tgid: the process that does, 0 for any
 * @guest_event: event select and unit mask that only guests use, 0 for none
 * @guest_fixed: bits of IA32_FIXED_CTR_CTRL that only guests use
 * @loads: perf_load_guest_context() calls of that process
 * @no_pmis: of these for a guest whose counters don't interrupt
 * @missed: of these that went unnoticed
 * @shortest: nanoseconds from the ends of the loads to the starts of the puts
 * @longest: nanoseconds from the starts of the loads to the ends of the puts
 * @bad_loads: with something enabled right after the load, or the wrong LVTPC
 * @bad_leaves: with something enabled at the put
 * @bad_puts: with something of the guest enabled after the put, or the wrong LVTPC
 * @entries: VMRUNs with something enabled, on AMD
 * @bad_entries: of these, with a selector that is not GuestOnly, or is HostOnly
 * @first_bad: the PMU at the first of all that is bad
 */
struct lend_watch {
	__s32 tgid;
	__u32 guest_event;
	__u64 guest_fixed;
	__u64 loads;
	__u64 no_pmis;
	__u64 missed;
	__u64 shortest;
	__u64 longest;
	__u64 bad_loads;
	__u64 bad_leaves;
	__u64 bad_puts;
	__u64 entries;
	__u64 bad_entries;
	struct lend_regs first_bad;
};

/**
 * struct lend_event - LEND_EVENT_OPEN: an event of the kernel's own
 * @cpu: where, -1 for the calling task
 * @exclude_guest: as in struct perf_event_attr
 *
 * There is one per open file, until LEND_EVENT_CLOSE.
 */
struct lend_event {
	__s32 cpu;
	__u32 exclude_guest;
};

#define LEND_SYMBOL_LEN	48

/**
 * struct lend_fail - LEND_FAIL_START, LEND_FAIL_STOP: have a function of the kernel fail
 * @symbol: its name
 * @error: what it returns at once, to the calling process alone
 * @hits: how often it did
 * @nth: only the so many-th call of that process fails, 0 for each
 * @anybody: not only to the calling process, kernel threads included
 *
 * Whoever names a function knows that it can be left out like this.
 */
struct lend_fail {
	char symbol[LEND_SYMBOL_LEN];
	__s32 error;
	__u32 hits;
	__u32 nth;
	__u32 anybody;
};

/**
 * struct lend_lsm - LEND_LSM_START, LEND_LSM_READ: what a security module has of perf events
 * @attached: events that it was shown at their creation, and has a state of
 * @freed: such states that it has been told to free
 *
 * From the start on, and until the file is closed.
 */
struct lend_lsm {
	__u64 attached;
	__u64 freed;
};

#define LEND_MAX_NMIS	10000

/**
 * struct lend_nmis - LEND_NMIS: send a CPU NMIs, one after the other
 * @cpu: the CPU
 * @nr: how many, LEND_MAX_NMIS at most
 * @nr_unknown: of these, those that nobody has claimed
 */
struct lend_nmis {
	__s32 cpu;
	__u32 nr;
	__u32 nr_unknown;
};

#define LEND_CREATE		_IO('l', 0)	/* perf_create_mediated_pmu() */
#define LEND_RELEASE		_IO('l', 1)	/* perf_release_mediated_pmu() */
#define LEND_RUN		_IOWR('l', 2, struct lend_run)
#define LEND_WATCH_START	_IOW('l', 3, struct lend_watch)
#define LEND_WATCH_STOP		_IOR('l', 4, struct lend_watch)
#define LEND_EVENT_OPEN		_IOW('l', 5, struct lend_event)
#define LEND_EVENT_CLOSE	_IO('l', 6)
#define LEND_SPURIOUS_PMI	_IO('l', 7)	/* the vector of guests' PMIs, out of nowhere */
#define LEND_FAIL_START		_IOW('l', 8, struct lend_fail)
#define LEND_FAIL_STOP		_IOR('l', 9, struct lend_fail)
/* A vPMU backend of KVM, whose vcpu_create() fails with LEND_BACKEND_ERROR. */
#define LEND_BACKEND_REGISTER	_IO('l', 13)
#define LEND_BACKEND_UNREGISTER	_IO('l', 14)
#define LEND_BACKEND_ERROR	ENXIO
#define LEND_ENABLE		_IO('l', 15)	/* a counter of this CPU globally, as RESET does all */
#define LEND_LOCKUP		_IOW('l', 10, __u64)	/* so many ns of host code, interrupts off */
#define LEND_LSM_START		_IO('l', 11)
#define LEND_LSM_READ		_IOR('l', 12, struct lend_lsm)
#define LEND_NMIS		_IOWR('l', 16, struct lend_nmis)
#define LEND_MASK_LVTPC		_IO('l', 17)	/* of this CPU, as an overflow does that is nobody's */

#endif /* VPMU_LEND_H */
