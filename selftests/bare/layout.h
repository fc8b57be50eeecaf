/* SPDX-License-Identifier: GPL-2.0 */
/* Constants that assembly and C share. */
#ifndef LAYOUT_H
#define LAYOUT_H

#define SECTOR		2048	/* of a CD */

#define MAX_CPUS	8
#define STACK_SHIFT	14
#define AP_TRAMPOLINE	0x6000

#define SEL_CODE32	0x08
#define SEL_DATA	0x10
#define SEL_CODE64	0x18
#define SEL_USER_CODE32	0x28
#define SEL_USER_DATA	0x30
#define SEL_USER_CODE64	0x38
#define SEL_TSS		0x40

#define TIMER_TICKS	3000

#endif
