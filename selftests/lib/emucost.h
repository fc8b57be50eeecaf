/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Cost counters of the emulated processors, and interrupts on request.
 *
 * The patched Bochs counts what silicon hides: how many instructions, MSR
 * accesses, RDPMCs and VM-exits the host's code paths cost. A root program in
 * the emulated host reads these counts through two 32-bit I/O ports. To
 * whoever does not ask, the ports do not exist: unless the emulator was
 * started with "costs: enabled=1", unless the unlock sequence below was
 * written first, and always in VMX non-root operation or an SVM guest, reads
 * give all ones and writes go nowhere, as with any unused port.
 *
 *   EMUCOST_PORT_CMD  (write, 32 bit)  commands
 *   EMUCOST_PORT_DATA (read, 32 bit)   half of a latched value, or all ones
 *   EMUCOST_PORT_DATA (write, 32 bit)  half of what the next command needs
 *
 * Commands, after the three dwords EMUCOST_UNLOCK0..2 in this order:
 *
 *   EMUCOST_CMD_VALUE | (index * 2 + half)  what EMUCOST_PORT_DATA shows
 *   EMUCOST_CMD_CPU   | cpu                 whose value that is
 *   EMUCOST_CMD_LATCH                       copy all counters of all CPUs
 *   EMUCOST_CMD_RAISE | where               have that CPU raise an interrupt
 *   EMUCOST_CMD_LOCK                        hide again
 *
 * Values are always those of the last latch, so that a set of them belongs
 * together. A latch counts what retired before the OUT instruction that asked
 * for it: the difference of two latches is the work from the first OUT
 * (inclusive) to the second (exclusive). The counters are 64 bits wide and
 * never go back until the machine is reset.
 *
 * The ports belong to the machine, not to a CPU or a process: two programs
 * that use them at the same time disturb each other's selection.
 */
#ifndef EMUCOST_H
#define EMUCOST_H

#include <errno.h>
#include <stdint.h>
#include <stdbool.h>

#ifndef EMUCOST_NO_LIBC
#include <sys/io.h>
#endif

#define EMUCOST_PORT_CMD	0x1ce0
#define EMUCOST_PORT_DATA	0x1ce4

#define EMUCOST_UNLOCK0		0x6c756d45u	/* "Emul" */
#define EMUCOST_UNLOCK1		0x72657461u	/* "ater" */
#define EMUCOST_UNLOCK2		0x74736f43u	/* "Cost" */

#define EMUCOST_CMD_VALUE	0x00000000u
#define EMUCOST_CMD_CPU		0x40000000u
#define EMUCOST_CMD_LATCH	0x80000000u
#define EMUCOST_CMD_RAISE	0x90000000u
#define EMUCOST_CMD_LOCK	0xc0000000u

/* What can be read. "Host" is everything that does not run as a guest. */
enum emucost_index {
	EMUCOST_MAGIC		= 0,	/* EMUCOST_MAGIC_VALUE, not per CPU */
	EMUCOST_NCPUS		= 1,	/* number of emulated CPUs, not per CPU */
	EMUCOST_HOST_INSNS	= 2,	/* instructions retired by the host */
	EMUCOST_GUEST_INSNS	= 3,	/* instructions retired by guests */
	EMUCOST_HOST_WRMSR	= 4,	/* WRMSRs that the host retired */
	EMUCOST_HOST_RDMSR	= 5,	/* RDMSRs that the host retired */
	EMUCOST_HOST_RDPMC	= 6,	/* RDPMCs that the host retired */
	EMUCOST_VMEXITS		= 7,	/* VM-exits, failed VM-entries included */
	EMUCOST_PMIS		= 8,	/* PMIs that an unmasked LVTPC sent on */
	EMUCOST_VMENTRIES	= 9,	/* VM-entries that succeeded */
	EMUCOST_PMI_DELAY	= 10,	/* how many instructions PMIs are late at most, not per CPU */
	EMUCOST_PMI_SEED	= 11,	/* of their random delays; 0: none is random; not per CPU */
	EMUCOST_RAISED		= 12,	/* interrupts that emucost_raise() asked for and that came */
	EMUCOST_HOST_TICKS0	= 16,	/* + n: what counter n counted outside of guests, */
	EMUCOST_GUEST_TICKS0	= 32,	/* and in guests: GP counters 0 to 7, fixed from 8 */
	EMUCOST_EXIT_REASON0	= 64,	/* + basic exit reason: VM-exits by reason */
					/* (SVM: exit code, from 400H on as F0H + n) */
	EMUCOST_HOST_TICKS8	= 320,	/* + n - 8: as above, of GP counters from 8 on */
	EMUCOST_GUEST_TICKS8	= 336,
	EMUCOST_NR_VALUES	= 352,
};

#define EMUCOST_NR_EXIT_REASONS	256
#define EMUCOST_MAGIC_VALUE	0x31747360756d45ull	/* layout version 1 */

static inline void emucost_cmd(uint32_t cmd)
{
	__asm__ volatile("outl %0, %w1" : : "a"(cmd), "Nd"(EMUCOST_PORT_CMD) : "memory");
}

static inline uint32_t emucost_data(void)
{
	uint32_t data;

	__asm__ volatile("inl %w1, %0" : "=a"(data) : "Nd"(EMUCOST_PORT_DATA) : "memory");
	return data;
}

/* Take a consistent copy of every counter. */
static inline void emucost_latch(void)
{
	emucost_cmd(EMUCOST_CMD_LATCH);
}

/* The latched value @index of @cpu. */
static inline uint64_t emucost_read(unsigned int cpu, unsigned int index)
{
	uint64_t value;

	emucost_cmd(EMUCOST_CMD_CPU | cpu);
	emucost_cmd(EMUCOST_CMD_VALUE | (index * 2));
	value = emucost_data();
	emucost_cmd(EMUCOST_CMD_VALUE | (index * 2 + 1));
	return value | (uint64_t)emucost_data() << 32;
}

/*
 * The index of what a counter counted in guests, or outside of them. @counter is what
 * IA32_PERF_GLOBAL_CTRL calls it: GP counters from 0 on, fixed counters from 32 on.
 */
static inline unsigned int emucost_ticks(bool in_guests, unsigned int counter)
{
	if (counter >= 32)
		counter -= 32 - 8;
	else if (counter >= 8)
		return (in_guests ? EMUCOST_GUEST_TICKS8 : EMUCOST_HOST_TICKS8) + counter - 8;
	return (in_guests ? EMUCOST_GUEST_TICKS0 : EMUCOST_HOST_TICKS0) + counter;
}

/* The sum of the latched values @index over all CPUs. */
static inline uint64_t emucost_read_all(unsigned int index)
{
	unsigned int cpu, ncpus = emucost_read(0, EMUCOST_NCPUS);
	uint64_t sum = 0;

	for (cpu = 0; cpu < ncpus; cpu++)
		sum += emucost_read(cpu, index);
	return sum;
}

/* 64 bits that the next command needs. */
static inline void emucost_parameter(uint64_t value)
{
	__asm__ volatile("outl %0, %w1" : : "a"((uint32_t)value), "Nd"(EMUCOST_PORT_DATA) : "memory");
	__asm__ volatile("outl %0, %w1" : : "a"((uint32_t)(value >> 32)), "Nd"(EMUCOST_PORT_DATA) : "memory");
}

/* Where instructions are counted until an interrupt is raised */
enum emucost_where {
	EMUCOST_IN_HOST		= 0,
	EMUCOST_IN_GUESTS	= 1,
};

#define EMUCOST_NEVER		(~0ull)

/*
 * Ask for an interrupt by LVTPC that no counter of the emulated processor would
 * cause, such as that of Intel PT, whose buffer is full. Once @cpu has retired
 * @insns more instructions @where, it sets the bits @status of
 * IA32_PERF_GLOBAL_STATUS, or AMD's PerfCntrGlobalStatus, and raises an
 * interrupt as an overflow does: LVTPC says which one, or that it is dropped;
 * "pmi: delay=" makes it late; IA32_DEBUGCTL freezes if the bits are those of
 * counters or of PERF_METRICS, and not for Intel PT (55), the uncore (61) or DS
 * (62). Bits that the register has not got are not set.
 *
 * What is counted begins with the instruction behind the OUT that asks. With
 * @insns 0 it happens as soon as @cpu is @where: behind that OUT, or in a guest
 * before its first instruction. VM-entries (VMLAUNCH, VMRESUME, VMRUN) count
 * for the host; an interrupt that is due with one arrives in the guest.
 *
 * One such interrupt may be asked for on each side of each CPU: another request
 * takes its place, and EMUCOST_NEVER as @insns takes it back. EMUCOST_RAISED
 * tells how many came.
 */
static inline void emucost_raise(unsigned int cpu, enum emucost_where where, uint64_t insns,
				 uint64_t status)
{
	emucost_cmd(EMUCOST_CMD_CPU | cpu);
	emucost_parameter(insns);
	emucost_parameter(status);
	emucost_cmd(EMUCOST_CMD_RAISE | where);
}

/* Write the unlock sequence; true if the counters answer. */
static inline bool emucost_unlock(void)
{
	emucost_cmd(EMUCOST_UNLOCK0);
	emucost_cmd(EMUCOST_UNLOCK1);
	emucost_cmd(EMUCOST_UNLOCK2);
	emucost_latch();
	return emucost_read(0, EMUCOST_MAGIC) == EMUCOST_MAGIC_VALUE;
}

/* Hide the counters again. */
static inline void emucost_lock(void)
{
	emucost_cmd(EMUCOST_CMD_LOCK);
}

#ifndef EMUCOST_NO_LIBC
/*
 * Get access to the ports and unlock the counters. Returns 0, -EPERM if the
 * program may not use I/O ports, -ENODEV where there are no cost counters (on
 * real hardware too: nothing there answers to these ports).
 */
static inline int emucost_open(void)
{
	if (ioperm(EMUCOST_PORT_CMD, 8, 1))
		return -EPERM;
	return emucost_unlock() ? 0 : -ENODEV;
}
#endif

#endif /* EMUCOST_H */
