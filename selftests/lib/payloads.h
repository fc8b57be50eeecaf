/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Payloads that more than one program runs: without exits, and with one a round.
 */
#ifndef SELFTEST_PAYLOADS_H
#define SELFTEST_PAYLOADS_H

#include "payload.h"

DEFINE_LOOP_PAYLOAD(nop,
	"nop\n\t",
	1, 0);

DEFINE_LOOP_PAYLOAD(cpuid,
	"xor %%eax, %%eax\n\t"
	"cpuid\n\t",
	2, 0);

#endif /* SELFTEST_PAYLOADS_H */
