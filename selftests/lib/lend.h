/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The PMU lent to nobody, by vpmu_lend.ko.
 */
#ifndef SELFTEST_LEND_H
#define SELFTEST_LEND_H

#include <stdbool.h>
#include <stdint.h>

#include "vpmu_lend.h"

/**
 * struct lend - an open /dev/vpmu_lend
 * @fd: its file descriptor
 * @page: seen and written while the PMU is lent
 */
struct lend {
	int fd;
	volatile struct lend_page *page;
};

/* Is vpmu_lend.ko loaded, or can it be? Loads it. */
bool lend_is_available(void);

/* Opens the device, which has to be there. */
struct lend lend_open(void);
void lend_close(struct lend *lend);

/* perf_create_mediated_pmu(): 0 or -errno; and the reverse, which cannot fail. */
int lend_create(struct lend *lend);
void lend_release(struct lend *lend);

/* An event of the kernel's own: 0 or -errno. */
int lend_event_open(struct lend *lend, int cpu, bool exclude_guest);
void lend_event_close(struct lend *lend);

/**
 * struct lent - for how long a PMU was lent, all in all
 * @shortest: nanoseconds without the work of lending it and taking it back
 * @longest: and with that
 */
struct lent {
	uint64_t shortest;
	uint64_t longest;
};

/* Lends this CPU's PMU, and adds up the time. */
struct lend_run lend_run(struct lend *lend, const struct lend_run *how, struct lent *sum);
void lend_for(struct lend *lend, uint64_t nsecs, struct lent *sum);

/* Watches process @tgid lend the PMU by means of KVM. */
void lend_watch_start(struct lend *lend, const struct lend_watch *what);
struct lend_watch lend_watch_stop(struct lend *lend);

/* Keeps this CPU in code of the host with interrupts disabled. */
void lend_lockup(struct lend *lend, uint64_t nsecs);

/* Masks this CPU's LVTPC, as an overflow does that is nobody's. */
void lend_mask_lvtpc(struct lend *lend);

/* Sends @cpu @nr NMIs of which nobody knows; returns how many have been told to be unknown. */
unsigned int lend_nmis(struct lend *lend, int cpu, unsigned int nr);

/* Has the kernel's function @symbol return @error to the calling process. */
void lend_fail_start(struct lend *lend, const char *symbol, int error);
/* ... only at the @nth call from now on. */
void lend_fail_start_nth(struct lend *lend, const char *symbol, int error, unsigned int nth);
/* ... or @value to anybody, which needs no failure. */
void lend_override_start(struct lend *lend, const char *symbol, int value);
/* How often it did. */
unsigned int lend_fail_stop(struct lend *lend);

/* Registers a vPMU backend that takes no vCPU: 0 or -errno; and takes it back. */
int lend_backend_register(struct lend *lend);
void lend_backend_unregister(struct lend *lend);

/* Has each event that is opened from now on known to a security module, if the kernel has them. */
bool lend_lsm_start(struct lend *lend);
struct lend_lsm lend_lsm_read(struct lend *lend);

/* Skips the test that it stands in where the module isn't built, or perf lends no PMU. */
#define LEND_REQUIRE()								\
do {										\
	if (!lend_is_available())						\
		SKIP(return, "needs vpmu_lend.ko");				\
} while (0)

#endif /* SELFTEST_LEND_H */
