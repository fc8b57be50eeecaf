/* SPDX-License-Identifier: GPL-2.0 */
/* Interrupts that a program asks the emulator for, and what the tests of them in guests need. */
#ifndef RAISE_H
#define RAISE_H

#define EMUCOST_NO_LIBC
#include "emucost.h"
#include "conf.h"

/* No request is pending, no PMI was, the counters are off. */
void prepare_raise(u32 lvtpc);

/* How many host instructions there can be from a request on until the guest is entered */
#define UNTIL_GUEST	400

#endif
