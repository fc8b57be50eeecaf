/* SPDX-License-Identifier: GPL-2.0 */
/* Interrupts that come late, and what the tests of them in guests need. */
#ifndef LATE_H
#define LATE_H

#include "conf.h"

/* How many instructions late the next interrupt of the calling processor is. Each overflow that interrupts is one. */
u64 next_delay(void);
/* The same, but let those go by that are less late; 0 if all are. */
u64 delay_of_at_least(u64 least);
/* Two instructions and then more NOPs than the longest delay, all counters on */
void run_sled(void);

#endif
