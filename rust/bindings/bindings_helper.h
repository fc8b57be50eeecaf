/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What bindgen reads. The Kbuild file has the list of what it takes of it.
 */
#include <linux/perf_event.h>
#include <asm/kvm_vpmu.h>
#include <asm/perf_guest.h>
#include <kvm_mediated_pmu.h>
