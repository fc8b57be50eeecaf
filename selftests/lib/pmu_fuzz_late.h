/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Random programs for processors whose PMIs come late, the other kind of what
 * pmu_fuzz.h makes, which includes this.
 *
 * When a late PMI comes is nobody's to say: not the manual's, and in a guest it
 * depends on VM-exits, too, for one that is on its way when the guest is left is
 * there when it is entered again. So nothing of that moment can be compared. What
 * has to agree is what depends on no such moment: for each stretch in which counters
 * count, what they have counted in total, the interrupts' handlers included, how
 * many PMIs there were, and which bits of the status anybody has seen.
 *
 * That would say little of programs at large, where a handler may run before a
 * counter is switched off or after, and one PMI may do for two overflows or be
 * dropped by LVTPC's mask. So these programs have it well defined. Between stretches
 * nothing counts and no PMI is on its way; then registers are written, and read to be
 * compared, at random. A stretch
 *
 * - sets each of its counters to overflow within a few counts, or not at all,
 * - runs code that makes all of the former overflow, with exits on the way, reads,
 *   interrupts, and status bits that are cleared before their PMI has come,
 * - waits as long as a PMI may take, so that those on their way come while all still
 *   counts, and
 * - switches the counters off. If it does that before it waits, handlers are counted
 *   or not, and the counters are left out of the comparison. The PMIs are not.
 *
 * How many PMIs come follows from what overflows with LVTPC unmasked:
 *
 * - One counter, once: one. Whatever follows the first, in the same stretch, is armed
 *   when the first has been handled: by the program that waits before it does so, or
 *   by the handler, as profilers do, with a period that is longer than a PMI takes.
 * - Many counters, and a handler that leaves LVTPC masked as it finds it, which
 *   Intel's do: one, that of the first. AMD's LVTPC doesn't mask itself; its programs
 *   don't have this.
 * - Many counters by a vector, interrupts off: one, which pends until they are on.
 * - Any by a masked LVTPC, which is not unmasked before they have come: none.
 *
 * The same holds for each operation by itself, whichever others are left out. Whether
 * it does hold shows without any guest: bare machines must agree whose PMIs come late
 * by different numbers, or at once (scripts/fuzz-bare).
 *
 * A counter of AMD's far control transfers isn't made to overflow: an interrupt might
 * do that, or the IRET of a handler, at any time.
 */
#ifndef SELFTEST_PMU_FUZZ_LATE_H
#define SELFTEST_PMU_FUZZ_LATE_H

/* In struct fuzz's buffer, behind what programs write to: */
#define FUZZ_SEEN		0xe00	/* status bits seen */
#define FUZZ_PMIS		0xe08	/* how many PMIs came */
#define FUZZ_REARMS		0xe10	/* how many more the handler has come, by */
#define FUZZ_REARM_INDEX	0xe14	/* this counter, for RDPMC, */
#define FUZZ_REARM_MSR		0xe18	/* and WRMSR, */
#define FUZZ_REARM_PERIOD	0xe1c	/* after so many counts */
#define FUZZ_KEEP		0xe20	/* whether the handler leaves the status alone */

/* Counts that make a counter overflow are at most so many. */
#define FUZZ_LATE_DISTANCE	60
/* Instructions of a handler and around it, at most. */
#define FUZZ_LATE_HANDLER	100

/*
 * Handlers. R11 is what LVTPC gets, again. Counters count all of it if they count
 * any, so that it executes the same each time, but for what re-arms a counter.
 */
extern char fuzz_late_pmi_entry[], fuzz_late_nmi_entry[];

asm(".pushsection .text\n"
	".global fuzz_late_pmi_entry, fuzz_late_nmi_entry\n"
	"fuzz_late_pmi_entry:\n\t"
	"push %rax\n\t"
	"push %rcx\n\t"
	"push %rdx\n\t"
	"call fuzz_late_pmi\n\t"
	"jmp fuzz_eoi\n"

	"fuzz_late_nmi_entry:\n\t"
	"push %rax\n\t"
	"push %rcx\n\t"
	"push %rdx\n\t"
	"call fuzz_late_pmi\n\t"
	"jmp fuzz_return\n"

	"fuzz_late_pmi:\n\t"
	"incq " FUZZ_STR(FUZZ_PMIS) "(%r14)\n\t"
	"cmpl $0, " FUZZ_STR(FUZZ_KEEP) "(%r14)\n\t"
	"jne 1f\n\t"
	/* Clear no bit that has not been seen. */
	"mov fuzz_status_msr(%rip), %ecx\n\t"
	"rdmsr\n\t"
	"or %eax, " FUZZ_STR(FUZZ_SEEN) "(%r14)\n\t"
	"or %edx, " FUZZ_STR(FUZZ_SEEN) "+4(%r14)\n\t"
	"mov fuzz_status_reset_msr(%rip), %ecx\n\t"
	"wrmsr\n"
	"1:\n\t"
	/* What the counter has counted since it overflowed is part of the next period. */
	"cmpl $0, " FUZZ_STR(FUZZ_REARMS) "(%r14)\n\t"
	"je 1f\n\t"
	"decl " FUZZ_STR(FUZZ_REARMS) "(%r14)\n\t"
	"mov " FUZZ_STR(FUZZ_REARM_INDEX) "(%r14), %ecx\n\t"
	"rdpmc\n\t"
	"sub " FUZZ_STR(FUZZ_REARM_PERIOD) "(%r14), %eax\n\t"
	"sbb $0, %edx\n\t"
	"and $0xffff, %edx\n\t"
	"mov " FUZZ_STR(FUZZ_REARM_MSR) "(%r14), %ecx\n\t"
	"wrmsr\n"
	"1:\n\t"
	"mov $" FUZZ_STR(FUZZ_X2APIC_LVTPC) ", %ecx\n\t"
	"mov %r11d, %eax\n\t"
	"xor %edx, %edx\n\t"
	"wrmsr\n\t"
	"ret\n\t"
	".popsection\n");

/* movl $value, offset(%r14) */
static inline void fuzz_emit_set(struct fuzz *f, uint32_t offset, uint32_t value)
{
	FUZZ_EMIT(f, "\x41\xc7\x86");
	fuzz_emit32(f, offset);
	fuzz_emit32(f, value);
}

/* Reads the status, notes what it has, and clears that: a PMI on its way stays there. */
static inline void fuzz_emit_clear_seen(struct fuzz *f)
{
	fuzz_mov_ecx(f, f->is_amd ? FUZZ_AMD_STATUS : FUZZ_STATUS);
	FUZZ_EMIT(f, "\x0f\x32"			/* rdmsr */
		     "\x41\x09\x86");		/* or %eax, offset(%r14) */
	fuzz_emit32(f, FUZZ_SEEN);
	FUZZ_EMIT(f, "\x41\x09\x96");		/* or %edx, offset(%r14) */
	fuzz_emit32(f, FUZZ_SEEN + 4);
	fuzz_mov_ecx(f, f->is_amd ? FUZZ_AMD_STATUS_RESET : FUZZ_STATUS_RESET);
	FUZZ_EMIT(f, "\x0f\x30");		/* wrmsr */
}

static inline void fuzz_emit_log_buf(struct fuzz *f, uint32_t offset)
{
	FUZZ_EMIT(f, "\x49\x8b\x86");		/* mov offset(%r14), %rax */
	fuzz_emit32(f, offset);
	FUZZ_EMIT(f, "\x49\x89\x07"		/* mov %rax, (%r15) */
		     "\x49\x83\xc7\x08");	/* add $8, %r15 */
}

/* As many instructions, and as many branches. */
static inline void fuzz_emit_loop(struct fuzz *f, uint32_t rounds)
{
	fuzz_mov_ecx(f, rounds);
	FUZZ_EMIT(f, "\xe2\xfe");		/* loop . */
}

/* Until each PMI has come, and its handler is through. */
static inline void fuzz_emit_wait(struct fuzz *f)
{
	fuzz_emit_loop(f, f->late + FUZZ_LATE_HANDLER);
}

/* A counter that overflows again after so many counts does so when the first PMI was handled. */
static inline uint32_t fuzz_late_period(const struct fuzz *f)
{
	return f->late + 3 * FUZZ_LATE_HANDLER;
}

/* A counter's bit in the global registers says which: its MSR, */
static inline uint32_t fuzz_bit_msr(const struct fuzz *f, uint32_t bit)
{
	return bit < 32 ? fuzz_full_pmc_msr(f, bit) : FUZZ_FIXED0 + bit - 32;
}

/* and its index for RDPMC. */
static inline uint32_t fuzz_bit_index(uint32_t bit)
{
	return bit < 32 ? bit : FUZZ_BIT(30) + bit - 32;
}

static inline uint64_t fuzz_soon(struct fuzz *f)
{
	return -(uint64_t)(1 + fuzz_below(f, FUZZ_LATE_DISTANCE)) & (FUZZ_BIT(48) - 1);
}

/* Values that do not overflow as long as a program runs. */
static inline uint64_t fuzz_not_soon(struct fuzz *f)
{
	switch (fuzz_below(f, 3)) {
	case 0:
		return 0;
	case 1:
		return fuzz_random(f) >> 17;
	default:
		return FUZZ_BIT(48) - FUZZ_BIT(30) - fuzz_below(f, 1000);
	}
}

/* A read of the PMU amidst counting: there is nothing to compare, but it may exit or fault. */
static inline void fuzz_emit_peek(struct fuzz *f)
{
	const uint32_t which = fuzz_below(f, 4);

	switch (which) {
	case 0:
		fuzz_mov_ecx(f, fuzz_counter_msr(f));
		break;
	case 1:
		fuzz_mov_ecx(f, fuzz_selector_msr(f, fuzz_below(f, f->nr_gp)));
		break;
	case 2:
		fuzz_mov_ecx(f, f->is_amd ? FUZZ_AMD_STATUS : FUZZ_STATUS);
		break;
	default:
		fuzz_mov_ecx(f, fuzz_below(f, 10));
	}
	if (which == 3)
		FUZZ_EMIT(f, "\x0f\x33");	/* rdpmc */
	else
		FUZZ_EMIT(f, "\x0f\x32");	/* rdmsr */
}

/* Code of a stretch. With interrupts on it may switch them off for a while. */
static inline void fuzz_late_body(struct fuzz *f, bool interrupts)
{
	uint32_t nr = fuzz_below(f, 6);

	while (nr--) {
		switch (fuzz_below(f, 9)) {
		case 0:
		case 1:
			fuzz_op_compute(f);
			break;
		case 2:
			fuzz_emit_peek(f);
			break;
		case 3:
			fuzz_emit_clear_seen(f);
			break;
		case 4:
			fuzz_emit_wrmsr(f, FUZZ_X2APIC_SELF_IPI, FUZZ_IPI_VECTOR);
			break;
		case 5:
			if (!interrupts)
				break;
			FUZZ_EMIT(f, "\xfa");			/* cli */
			fuzz_op_compute(f);
			fuzz_op_exit(f);
			FUZZ_EMIT(f, "\xfb\x90");		/* sti; nop */
			break;
		default:
			fuzz_op_exit(f);
		}
	}
}

/*
 * What a stretch is like: one counter that interrupts, that the program arms, once or
 * several times, or the handler; many that do; the same with no PMI to come.
 */
enum fuzz_stretch {
	FUZZ_ARM_AGAIN,
	FUZZ_REARM,
	FUZZ_MANY,
	FUZZ_MANY_PENDING,
	FUZZ_MANY_MASKED,
};

/* What counter @bit counts, and whether it interrupts. */
static inline void fuzz_late_select(struct fuzz *f, uint32_t bit, bool interrupts)
{
	const uint64_t event = fuzz_below(f, 3) ? 0xc0 : fuzz_branches(f);

	if (bit == 32)
		fuzz_emit_fixed_ctrl(f, interrupts ? 0x9 : 0x1);
	else if (bit < 32)
		fuzz_emit_selector(f, bit, 0x420000 | event | FUZZ_BIT(20) * interrupts);
}

/* The counter that is to interrupt. */
static inline uint32_t fuzz_late_choose(struct fuzz *f)
{
	const uint32_t i = fuzz_below(f, f->nr_gp);

	return fuzz_below(f, 4) == 0 && f->nr_fixed ? 32 : i;
}

/* Sets the counters of @mask, of which @chosen is to interrupt if others are not to. */
static inline void fuzz_late_set_up(struct fuzz *f, uint64_t mask, uint32_t chosen, bool many)
{
	uint32_t bit;

	for (bit = 0; bit < 32 + f->nr_fixed; bit++) {
		bool known = bit == chosen;
		uint64_t value;

		if (!(mask & FUZZ_BIT(bit)))
			continue;
		if (known) {
			fuzz_late_select(f, bit, true);
		} else if (bit < 32 && fuzz_below(f, 3) == 0) {
			fuzz_late_select(f, bit, many);
			known = true;
		}
		/* Others count what they were set to by chance. */
		if (bit < 32 && f->far & FUZZ_BIT(bit))
			value = fuzz_not_soon(f);
		else if (many || known)
			value = fuzz_soon(f);
		else
			value = fuzz_not_soon(f);
		fuzz_emit_wrmsr(f, fuzz_bit_msr(f, bit), value);
	}
}

static inline uint32_t fuzz_late_lvtpc(struct fuzz *f, enum fuzz_stretch kind)
{
	uint32_t lvtpc = fuzz_below(f, 2) ? FUZZ_PMI_VECTOR : FUZZ_LVT_NMI;

	if (kind == FUZZ_MANY_PENDING)
		lvtpc = FUZZ_PMI_VECTOR;
	if (kind == FUZZ_MANY_MASKED)
		lvtpc |= FUZZ_LVT_MASKED;
	return lvtpc;
}

static inline void fuzz_late_log(struct fuzz *f, uint64_t counters)
{
	uint32_t bit;

	fuzz_emit_log_buf(f, FUZZ_PMIS);
	/* Which of the bits a handler has cleared depends on when it came. */
	fuzz_emit_clear_seen(f);
	fuzz_emit_log_buf(f, FUZZ_SEEN);
	for (bit = 0; bit < 32 + f->nr_fixed; bit++)
		if (counters & FUZZ_BIT(bit))
			fuzz_emit_rdpmc(f, fuzz_bit_index(bit));
}

/* All that overflows has done so when this is over, and each PMI has come if it waits. */
static inline void fuzz_late_run(struct fuzz *f, bool interrupts, uint32_t rearms, bool wait)
{
	const uint32_t again = fuzz_late_period(f) + f->late + FUZZ_LATE_HANDLER;

	fuzz_late_body(f, interrupts);
	fuzz_emit_loop(f, FUZZ_LATE_DISTANCE + rearms * again);
	if (!wait)
		return;
	fuzz_late_body(f, interrupts);
	fuzz_emit_wait(f);
}

/* Before it begins: what the handler finds, LVTPC, and the counters. */
static inline void fuzz_late_begin(struct fuzz *f, enum fuzz_stretch kind, uint64_t mask,
				   uint32_t chosen, uint32_t rearms)
{
	const uint32_t lvtpc = fuzz_late_lvtpc(f, kind);

	fuzz_emit_lvtpc(f, lvtpc);
	if (kind == FUZZ_MANY) {
		FUZZ_EMIT(f, "\x41\xbb");	/* mov $, %r11d */
		fuzz_emit32(f, lvtpc | FUZZ_LVT_MASKED);
	}
	fuzz_emit_clear_seen(f);
	fuzz_emit_set(f, FUZZ_SEEN, 0);
	fuzz_emit_set(f, FUZZ_SEEN + 4, 0);
	fuzz_emit_set(f, FUZZ_PMIS, 0);
	fuzz_emit_set(f, FUZZ_KEEP, fuzz_below(f, 3) == 0);
	fuzz_emit_set(f, FUZZ_REARMS, rearms);
	fuzz_emit_set(f, FUZZ_REARM_INDEX, fuzz_bit_index(chosen));
	fuzz_emit_set(f, FUZZ_REARM_MSR, fuzz_bit_msr(f, chosen));
	fuzz_emit_set(f, FUZZ_REARM_PERIOD, fuzz_late_period(f));
	fuzz_late_set_up(f, mask, chosen, kind >= FUZZ_MANY);
}

/* PMIs are on their way, and counters off; some are disabled, too. */
static inline void fuzz_late_end_early(struct fuzz *f, uint64_t mask, bool interrupts)
{
	uint32_t bit;

	for (bit = 0; bit < f->nr_gp; bit++)
		if (mask & FUZZ_BIT(bit) && fuzz_below(f, 3) == 0)
			fuzz_emit_selector(f, bit, 0);
	fuzz_late_body(f, interrupts);
	fuzz_emit_wait(f);
	for (bit = 0; bit < 32 + f->nr_fixed; bit++)
		if (mask & FUZZ_BIT(bit))
			fuzz_emit_wrmsr(f, fuzz_bit_msr(f, bit), fuzz_not_soon(f));
}

static inline void fuzz_late_stretch(struct fuzz *f)
{
	uint32_t kind = fuzz_below(f, 5), nr = 1 + fuzz_below(f, 3);
	const uint32_t chosen = fuzz_late_choose(f);
	const uint64_t mask = (fuzz_random(f) & fuzz_counters(f)) | FUZZ_BIT(chosen);
	const bool waits = fuzz_below(f, 4);
	uint32_t rearms = 0;
	bool interrupts;

	if (kind == FUZZ_MANY && f->is_amd)
		kind = FUZZ_MANY_PENDING;
	if (kind == FUZZ_REARM)
		rearms = nr;
	if (kind != FUZZ_ARM_AGAIN)
		nr = 1;
	interrupts = kind != FUZZ_MANY_PENDING;

	fuzz_late_begin(f, kind, mask, chosen, rearms);
	if (interrupts)
		FUZZ_EMIT(f, "\xfb\x90");	/* sti; nop */
	else
		FUZZ_EMIT(f, "\xfa");		/* cli */
	fuzz_emit_global_ctrl(f, mask);
	fuzz_late_run(f, interrupts, rearms, waits || nr > 1);
	while (--nr) {
		fuzz_emit_wrmsr(f, fuzz_bit_msr(f, chosen), fuzz_soon(f));
		fuzz_late_run(f, interrupts, 0, waits || nr > 1);
	}
	fuzz_emit_global_ctrl(f, 0);
	if (!waits)
		fuzz_late_end_early(f, mask, interrupts);
	FUZZ_EMIT(f, "\xfb\x90\x90\xfa");	/* sti; nop; nop; cli */
	fuzz_late_log(f, mask);
}

/* But for the global control: nothing counts but in a stretch. */
static inline void fuzz_late_control(struct fuzz *f)
{
	fuzz_emit_control(f, fuzz_below(f, 5));
}

static inline void fuzz_late_op(struct fuzz *f)
{
	static void (* const ops[])(struct fuzz *f) = {
		fuzz_op_rdmsr, fuzz_op_rdmsr, fuzz_op_rdpmc, fuzz_late_control, fuzz_late_control,
		fuzz_op_lvtpc, fuzz_op_exit, fuzz_op_write_counter,
		fuzz_late_stretch, fuzz_late_stretch, fuzz_late_stretch, fuzz_late_stretch,
	};
	const uint32_t n = fuzz_below(f, sizeof(ops) / sizeof(ops[0]));

	ops[n](f);
}

#endif /* SELFTEST_PMU_FUZZ_LATE_H */
