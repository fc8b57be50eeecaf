/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Random programs of PMU operations, the same wherever they run: on bare metal
 * (selftests/fuzz) and in a guest (vpmu_fuzz_test). What they read must agree.
 *
 * A program is machine code made from a seed: it depends on nothing but its
 * number and which of its operations are left out, not on a compiler, and while
 * it runs no other code does, but for handlers written in assembly here. So
 * counters may count all the time, and each value read, each fault and the very
 * moment of each interrupt is known to the instruction. All that a program reads
 * goes into a log; logs are compared by their hashes.
 *
 * The programs keep to what a guest cannot tell from bare metal: instructions
 * and branches in kernel mode, counted without edge detection, since a cycle
 * passes with each VM-exit.  A counter whose selector changes does not count
 * meanwhile: whether the WRMSR that switches it counts itself is nothing that
 * the manual says.
 *
 * AMD's programs are made likewise, of its registers and events. They don't
 * write the read-only status, which is KVM's to ignore, nor HostOnly and
 * GuestOnly, which do different things without SVM. Their LVTPC does not mask
 * itself; the handler of NMIs does, for the program to unmask. Else the IRET that
 * lets a pending NMI through might cause one more: on bare metal the two are
 * one, where KVM delivers one after the other.
 *
 * Where PMIs come late the programs are others, see pmu_fuzz_late.h.
 *
 * Needs nothing of a C library.
 */
#ifndef SELFTEST_PMU_FUZZ_H
#define SELFTEST_PMU_FUZZ_H

#include <stdbool.h>
#include <stdint.h>

/* Operations of a program, beside those that set up and read all registers. */
#define FUZZ_OPS		100

#define FUZZ_LOG_SIZE		4096
/* No handler begins to log after this. */
#define FUZZ_LOG_LIMIT		(FUZZ_LOG_SIZE - 512)

#define FUZZ_PMI_VECTOR		0x52
#define FUZZ_IPI_VECTOR		0x41

/* A page that has no memory and is mapped one to one, and a port that nobody answers. */
#define FUZZ_MMIO		0xd0000000u
#define FUZZ_PORT		0x80

/* Intel's */
#define FUZZ_PMC0		0x0c1
#define FUZZ_SELECTOR0		0x186
#define FUZZ_FIXED0		0x309
#define FUZZ_FIXED_CTRL		0x38d
#define FUZZ_STATUS		0x38e
#define FUZZ_GLOBAL_CTRL	0x38f
#define FUZZ_STATUS_RESET	0x390
#define FUZZ_A_PMC0		0x4c1
/* AMD's */
#define FUZZ_AMD_LEGACY_CTR0	0xc0010004
#define FUZZ_AMD_CTL0		0xc0010200
#define FUZZ_AMD_CTR0		0xc0010201
#define FUZZ_AMD_STATUS		0xc0000300
#define FUZZ_AMD_GLOBAL_CTRL	0xc0000301
#define FUZZ_AMD_STATUS_RESET	0xc0000302
#define FUZZ_AMD_STATUS_SET	0xc0000303

#define FUZZ_TSC_DEADLINE	0x6e0
#define FUZZ_X2APIC_ICR		0x830
#define FUZZ_X2APIC_LVTT	0x832
#define FUZZ_X2APIC_LVTPC	0x834
#define FUZZ_X2APIC_SELF_IPI	0x83f

#define FUZZ_LVT_MASKED		(1u << 16)
#define FUZZ_LVT_NMI		(4u << 8)
#define FUZZ_LVTT_DEADLINE	(2u << 17)

#define FUZZ_BIT(n)		(1ull << (n))
#define FUZZ_STR_(x)		#x
#define FUZZ_STR(x)		FUZZ_STR_(x)

/**
 * struct fuzz_program - which program
 * @number: of the whole one
 * @without: a bit for each of its operations that is left out
 */
struct fuzz_program {
	uint64_t number;
	uint64_t without[2];
};

/**
 * struct fuzz - a program in the making, and what it yields
 * @is_amd: it is for AMD's PMU
 * @nr_gp: general-purpose counters, all of which it uses
 * @nr_fixed: fixed counters
 * @late: by how many instructions a PMI may be late
 * @rng: state of the generator
 * @global_ctrl: the last value of IA32_PERF_GLOBAL_CTRL that did not fault
 * @far: counters that may count far control transfers
 * @size: bytes of @code
 * @logged: values in @log
 * @code: the program
 * @log: what it read
 * @buf: memory that it writes
 */
struct fuzz {
	uint32_t is_amd;
	uint32_t nr_gp;
	uint32_t nr_fixed;
	uint32_t late;
	uint64_t rng;
	uint64_t global_ctrl;
	uint64_t far;
	uint64_t size;
	uint64_t logged;
	uint8_t code[65536] __attribute__((aligned(4096)));
	uint64_t log[FUZZ_LOG_SIZE];
	uint8_t buf[4096];
};

/*
 * Handlers: #GP, PMI by vector and by NMI, and an interrupt that the program
 * sends to itself.
 *
 * While a program runs, R15 is where to log, R12 the end of the log, R14 the
 * buffer, R13 the number of faults, and R11 what LVTPC gets after a PMI. RAX,
 * RCX, RDX, RBX, RSI and RDI are the program's own.
 */
/*
 * The status, what clears its bits, the second counter that a handler reads, and
 * what that of NMIs sets in LVTPC.
 */
uint32_t fuzz_status_msr, fuzz_status_reset_msr, fuzz_other_counter, fuzz_nmi_masks;

extern char fuzz_gp_entry[], fuzz_pmi_entry[], fuzz_nmi_entry[], fuzz_ipi_entry[];

asm(".pushsection .text\n"
	".global fuzz_gp_entry, fuzz_pmi_entry, fuzz_nmi_entry, fuzz_ipi_entry\n"
	"fuzz_gp_entry:\n\t"
	"add $8, %rsp\n\t"		/* the error code */
	"addq $2, (%rsp)\n\t"		/* the length of RDMSR, WRMSR, RDPMC */
	"inc %r13\n\t"
	"iretq\n"

	"fuzz_pmi_entry:\n\t"
	"push %rax\n\t"
	"push %rcx\n\t"
	"push %rdx\n\t"
	"mov $'P', %eax\n\t"
	"call fuzz_log_pmi\n\t"
	"jmp fuzz_eoi\n"

	"fuzz_nmi_entry:\n\t"
	"push %rax\n\t"
	"push %rcx\n\t"
	"push %rdx\n\t"
	"mov $'N', %eax\n\t"
	"or fuzz_nmi_masks(%rip), %r11d\n\t"
	"call fuzz_log_pmi\n\t"
	"jmp fuzz_return\n"

	"fuzz_ipi_entry:\n\t"
	"push %rax\n\t"
	"push %rcx\n\t"
	"push %rdx\n\t"
	"cmp %r12, %r15\n\t"
	"jae fuzz_eoi\n\t"
	"movl $'I', (%r15)\n\t"
	"add $8, %r15\n"

	"fuzz_eoi:\n\t"
	"mov $0x80b, %ecx\n\t"
	"xor %eax, %eax\n\t"
	"xor %edx, %edx\n\t"
	"wrmsr\n"
	"fuzz_return:\n\t"
	"pop %rdx\n\t"
	"pop %rcx\n\t"
	"pop %rax\n\t"
	"iretq\n"

	/* What came, the status, two counters, LVTPC; then ready for the next. */
	"fuzz_log_pmi:\n\t"
	"cmp %r12, %r15\n\t"
	"jae 1f\n\t"
	"mov %eax, (%r15)\n\t"
	"mov fuzz_status_msr(%rip), %ecx\n\t"
	"rdmsr\n\t"
	"mov %eax, 8(%r15)\n\t"
	"mov %edx, 12(%r15)\n\t"
	"mov fuzz_status_reset_msr(%rip), %ecx\n\t"
	"wrmsr\n\t"
	"xor %ecx, %ecx\n\t"
	"rdpmc\n\t"
	"mov %eax, 16(%r15)\n\t"
	"mov %edx, 20(%r15)\n\t"
	"mov fuzz_other_counter(%rip), %ecx\n\t"
	"rdpmc\n\t"
	"mov %eax, 24(%r15)\n\t"
	"mov %edx, 28(%r15)\n\t"
	"mov $" FUZZ_STR(FUZZ_X2APIC_LVTPC) ", %ecx\n\t"
	"rdmsr\n\t"
	"mov %eax, 32(%r15)\n\t"
	"add $40, %r15\n"
	"1:\n\t"
	"mov $" FUZZ_STR(FUZZ_X2APIC_LVTPC) ", %ecx\n\t"
	"mov %r11d, %eax\n\t"
	"xor %edx, %edx\n\t"
	"wrmsr\n\t"
	"ret\n\t"
	".popsection\n");

static inline void fuzz_wrmsr(uint32_t msr, uint64_t value)
{
	asm volatile("wrmsr" : : "c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32))
		     : "memory");
}

static inline uint32_t fuzz_selector_msr(const struct fuzz *f, uint32_t i)
{
	return f->is_amd ? FUZZ_AMD_CTL0 + 2 * i : FUZZ_SELECTOR0 + i;
}

/* The older address, where there is one, */
static inline uint32_t fuzz_pmc_msr(const struct fuzz *f, uint32_t i)
{
	if (f->is_amd)
		return i < 4 ? FUZZ_AMD_LEGACY_CTR0 + i : FUZZ_AMD_CTR0 + 2 * i;
	return FUZZ_PMC0 + i;
}

/* and that which takes all bits in any case. */
static inline uint32_t fuzz_full_pmc_msr(const struct fuzz *f, uint32_t i)
{
	return f->is_amd ? FUZZ_AMD_CTR0 + 2 * i : FUZZ_A_PMC0 + i;
}

static inline uint32_t fuzz_global_ctrl_msr(const struct fuzz *f)
{
	return f->is_amd ? FUZZ_AMD_GLOBAL_CTRL : FUZZ_GLOBAL_CTRL;
}

static inline uint32_t fuzz_branches(const struct fuzz *f)
{
	return f->is_amd ? 0xc2 : 0xc4;
}

/*
 * ------------------------------------------------------------- generator
 * No expression draws twice: compilers would differ in which comes first.
 */

/* xorshift64*; the state is never zero. */
static inline uint64_t fuzz_random(struct fuzz *f)
{
	f->rng ^= f->rng >> 12;
	f->rng ^= f->rng << 25;
	f->rng ^= f->rng >> 27;
	return f->rng * 0x2545f4914f6cdd1dull;
}

static inline uint32_t fuzz_below(struct fuzz *f, uint32_t limit)
{
	return (fuzz_random(f) >> 32) % limit;
}

static inline void fuzz_emit(struct fuzz *f, const char *bytes, unsigned int nr)
{
	while (nr--)
		f->code[f->size++] = *bytes++;
}

#define FUZZ_EMIT(f, bytes)	fuzz_emit(f, bytes, sizeof(bytes) - 1)

static inline void fuzz_emit32(struct fuzz *f, uint32_t value)
{
	int i;

	for (i = 0; i < 4; i++)
		f->code[f->size++] = value >> (8 * i);
}

static inline void fuzz_mov_ecx(struct fuzz *f, uint32_t value)
{
	FUZZ_EMIT(f, "\xb9");
	fuzz_emit32(f, value);
}

/* The number of faults so far. */
static inline void fuzz_log_faults(struct fuzz *f)
{
	FUZZ_EMIT(f, "\x4d\x89\x2f"		/* mov %r13, (%r15) */
		     "\x49\x83\xc7\x08");	/* add $8, %r15 */
}

static inline void fuzz_emit_wrmsr(struct fuzz *f, uint32_t msr, uint64_t value)
{
	fuzz_mov_ecx(f, msr);
	FUZZ_EMIT(f, "\xb8");			/* mov $, %eax */
	fuzz_emit32(f, value);
	FUZZ_EMIT(f, "\xba");			/* mov $, %edx */
	fuzz_emit32(f, value >> 32);
	FUZZ_EMIT(f, "\x0f\x30");
	fuzz_log_faults(f);
}

/* RDMSR or RDPMC: a read that faults leaves what was in EDX:EAX. */
static inline void fuzz_emit_read(struct fuzz *f, uint32_t index, uint8_t opcode)
{
	fuzz_mov_ecx(f, index);
	FUZZ_EMIT(f, "\x31\xc0"			/* xor %eax, %eax */
		     "\x31\xd2"			/* xor %edx, %edx */
		     "\x0f");
	f->code[f->size++] = opcode;
	FUZZ_EMIT(f, "\x48\xc1\xe2\x20"		/* shl $32, %rdx */
		     "\x48\x09\xd0"		/* or %rdx, %rax */
		     "\x49\x89\x07"		/* mov %rax, (%r15) */
		     "\x49\x83\xc7\x08");	/* add $8, %r15 */
	fuzz_log_faults(f);
}

static inline void fuzz_emit_rdmsr(struct fuzz *f, uint32_t msr)
{
	fuzz_emit_read(f, msr, 0x32);
}

static inline void fuzz_emit_rdpmc(struct fuzz *f, uint32_t index)
{
	fuzz_emit_read(f, index, 0x33);
}

/* After a PMI, too. */
static inline void fuzz_emit_lvtpc(struct fuzz *f, uint32_t value)
{
	FUZZ_EMIT(f, "\x41\xbb");		/* mov $, %r11d */
	fuzz_emit32(f, value);
	fuzz_emit_wrmsr(f, FUZZ_X2APIC_LVTPC, value);
}

static inline uint64_t fuzz_counters(const struct fuzz *f)
{
	return (FUZZ_BIT(f->nr_gp) - 1) | (FUZZ_BIT(f->nr_fixed) - 1) << 32;
}

/* Values that matter to a counter, and some that it cannot take. */
static inline uint64_t fuzz_counter_value(struct fuzz *f)
{
	switch (fuzz_below(f, 8)) {
	case 0:
		return fuzz_random(f);
	case 1:
		return fuzz_random(f) & (FUZZ_BIT(48) - 1);
	case 2:
		return 0;
	case 3:
		/* Sign-extended by the addresses that take 32 bits. */
		return -(uint64_t)(1 + fuzz_below(f, 200)) & 0xffffffff;
	default:
		return -(uint64_t)(1 + fuzz_below(f, 200)) & (FUZZ_BIT(48) - 1);
	}
}

static inline uint64_t fuzz_selector(struct fuzz *f)
{
	const uint32_t branches = fuzz_branches(f);
	/* On AMD entering a guest is a taken branch, and a far one, too. */
	const uint32_t events[] = {
		0xc0, 0xc0, 0xc0, branches, branches, 0xff, 0xc4, 0xc6,
	};
	uint64_t value = events[fuzz_below(f, f->is_amd ? 8 : 6)];

	value |= FUZZ_BIT(16) * fuzz_below(f, 2);	/* USR */
	value |= FUZZ_BIT(17) * !!fuzz_below(f, 4);	/* OS */
	value |= FUZZ_BIT(20) * fuzz_below(f, 2);	/* INT */
	value |= FUZZ_BIT(22) * !!fuzz_below(f, 4);	/* EN */
	if (fuzz_below(f, 4) == 0)
		value |= FUZZ_BIT(24) * (1 + fuzz_below(f, 2));
	else
		value |= FUZZ_BIT(23) * fuzz_below(f, 2);	/* INV, ignored without a mask */
	if (fuzz_below(f, 12) == 0)
		value |= FUZZ_BIT(34 + fuzz_below(f, 30));
	if (f->is_amd)
		value &= ~(FUZZ_BIT(40) | FUZZ_BIT(41));
	/* Nobody says which interrupt shares a cycle with which branch. */
	if (f->is_amd && (value & 0xff) == branches)
		value &= ~(FUZZ_BIT(24) * 0xff);
	return value;
}

/* Of the other fixed counters none counts in kernel mode: they count cycles. */
static inline uint64_t fuzz_fixed_ctrl(struct fuzz *f)
{
	uint64_t value = fuzz_random(f) & 0xbbbb & ~0x1110ull;

	if (fuzz_below(f, 12) == 0)
		value |= FUZZ_BIT(16 + fuzz_below(f, 48));
	return value & ((FUZZ_BIT(f->nr_fixed * 4) - 1) | ~0xffffull);
}

static inline void fuzz_emit_global_ctrl(struct fuzz *f, uint64_t value)
{
	fuzz_emit_wrmsr(f, fuzz_global_ctrl_msr(f), value);
	/* Bits that do not exist fault, or are ignored. */
	if (f->is_amd || !(value & ~fuzz_counters(f)))
		f->global_ctrl = value & fuzz_counters(f);
}

static inline uint64_t fuzz_global_ctrl(struct fuzz *f)
{
	switch (fuzz_below(f, 8)) {
	case 0:
		return FUZZ_BIT(12 + fuzz_below(f, 20));
	case 1:
		return 0;
	case 2:
	case 3:
		return fuzz_counters(f);
	default:
		return fuzz_random(f) & fuzz_counters(f);
	}
}

/* A register that says what the counters @counters count. */
static inline void fuzz_emit_select(struct fuzz *f, uint32_t msr, uint64_t value,
				    uint64_t counters)
{
	const uint64_t global_ctrl = f->global_ctrl;

	if (global_ctrl & counters)
		fuzz_emit_global_ctrl(f, global_ctrl & ~counters);
	fuzz_emit_wrmsr(f, msr, value);
	if (global_ctrl & counters)
		fuzz_emit_global_ctrl(f, global_ctrl);
}

static inline void fuzz_emit_selector(struct fuzz *f, uint32_t i, uint64_t value)
{
	fuzz_emit_select(f, fuzz_selector_msr(f, i), value, FUZZ_BIT(i));
	f->far &= ~FUZZ_BIT(i);
	if (f->is_amd && (value & 0xff) == 0xc6)
		f->far |= FUZZ_BIT(i);
}

static inline void fuzz_emit_fixed_ctrl(struct fuzz *f, uint64_t value)
{
	fuzz_emit_select(f, FUZZ_FIXED_CTRL, value, fuzz_counters(f) & ~0xffffffffull);
}

/* A counter by one of its addresses. */
static inline uint32_t fuzz_counter_msr(struct fuzz *f)
{
	const uint32_t which = fuzz_below(f, 4);

	if (which == 0 && f->nr_fixed)
		return FUZZ_FIXED0 + fuzz_below(f, f->nr_fixed);
	if (which == 1)
		return fuzz_pmc_msr(f, fuzz_below(f, f->nr_gp));
	return fuzz_full_pmc_msr(f, fuzz_below(f, f->nr_gp));
}

static inline void fuzz_op_write_counter(struct fuzz *f)
{
	const uint32_t msr = fuzz_counter_msr(f);

	fuzz_emit_wrmsr(f, msr, fuzz_counter_value(f));
}

static inline void fuzz_op_rdmsr(struct fuzz *f)
{
	static const uint32_t globals[2][4] = {
		{ FUZZ_FIXED_CTRL, FUZZ_STATUS, FUZZ_GLOBAL_CTRL, FUZZ_STATUS_RESET },
		{ FUZZ_AMD_STATUS_SET, FUZZ_AMD_STATUS, FUZZ_AMD_GLOBAL_CTRL,
		  FUZZ_AMD_STATUS_RESET },
	};

	switch (fuzz_below(f, 6)) {
	case 0:
		fuzz_emit_rdmsr(f, fuzz_selector_msr(f, fuzz_below(f, f->nr_gp)));
		break;
	case 1:
	case 2:
		fuzz_emit_rdmsr(f, globals[!!f->is_amd][fuzz_below(f, 4)]);
		break;
	default:
		fuzz_emit_rdmsr(f, fuzz_counter_msr(f));
	}
}

static inline void fuzz_op_rdpmc(struct fuzz *f)
{
	const uint32_t which = fuzz_below(f, 8);
	uint32_t index;

	if (which == 0) {
		/* No counter, of either kind. */
		index = 8 + fuzz_below(f, 100);
		fuzz_emit_rdpmc(f, index + (fuzz_below(f, 2) << 30));
	} else if (which <= 2 && f->nr_fixed) {
		fuzz_emit_rdpmc(f, FUZZ_BIT(30) + fuzz_below(f, f->nr_fixed));
	} else {
		fuzz_emit_rdpmc(f, fuzz_below(f, f->nr_gp));
	}
}

/* Selectors, IA32_FIXED_CTR_CTRL, or the status: which of them is 0 to 4. */
static inline void fuzz_emit_control(struct fuzz *f, uint32_t which)
{
	uint32_t i;

	switch (which) {
	case 0:
	case 1:
		i = fuzz_below(f, f->nr_gp);
		fuzz_emit_selector(f, i, fuzz_selector(f));
		break;
	case 2:
		if (f->nr_fixed)
			fuzz_emit_fixed_ctrl(f, fuzz_fixed_ctrl(f));
		break;
	case 3:
		fuzz_emit_wrmsr(f, f->is_amd ? FUZZ_AMD_STATUS_RESET : FUZZ_STATUS_RESET,
				fuzz_random(f) & fuzz_counters(f));
		break;
	default:
		/* Intel's is read-only. */
		fuzz_emit_wrmsr(f, f->is_amd ? FUZZ_AMD_STATUS_SET : FUZZ_STATUS, fuzz_random(f));
	}
}

static inline void fuzz_op_control(struct fuzz *f)
{
	const uint32_t which = fuzz_below(f, 8);

	if (which <= 4)
		fuzz_emit_control(f, which);
	else
		fuzz_emit_global_ctrl(f, fuzz_global_ctrl(f));
}

/* A counter of instructions or branches that interrupts soon. */
static inline void fuzz_op_arm(struct fuzz *f)
{
	const uint64_t value = -(uint64_t)(1 + fuzz_below(f, 60)) & (FUZZ_BIT(48) - 1);
	const uint32_t i = fuzz_below(f, f->nr_gp);

	if (fuzz_below(f, 4) == 0 && f->nr_fixed) {
		fuzz_emit_wrmsr(f, FUZZ_FIXED0, value);
		fuzz_emit_fixed_ctrl(f, 0x9);
		fuzz_emit_global_ctrl(f, f->global_ctrl | FUZZ_BIT(32));
		return;
	}
	fuzz_emit_wrmsr(f, fuzz_full_pmc_msr(f, i), value);
	fuzz_emit_selector(f, i, 0x520000 | (fuzz_below(f, 3) ? 0xc0 : fuzz_branches(f)));
	fuzz_emit_global_ctrl(f, f->global_ctrl | FUZZ_BIT(i));
}

static inline void fuzz_op_lvtpc(struct fuzz *f)
{
	static const uint32_t values[] = {
		FUZZ_PMI_VECTOR, FUZZ_PMI_VECTOR, FUZZ_LVT_NMI,
		FUZZ_PMI_VECTOR | FUZZ_LVT_MASKED, FUZZ_LVT_NMI | FUZZ_LVT_MASKED,
	};

	fuzz_emit_lvtpc(f, values[fuzz_below(f, 5)]);
}

/* What leaves no guest. */
static inline void fuzz_op_compute(struct fuzz *f)
{
	uint32_t n = 1 + fuzz_below(f, 40);

	switch (fuzz_below(f, 6)) {
	case 0:
		FUZZ_EMIT(f, "\xeb\x00"			/* jmp . + 2 */
			     "\x75\x00"			/* jnz . + 2 */
			     "\x74\x00");		/* jz . + 2 */
		break;
	case 1:
		FUZZ_EMIT(f, "\xe8\x00\x00\x00\x00"	/* call . + 5 */
			     "\x48\x83\xc4\x08");	/* add $8, %rsp */
		break;
	case 2:
		fuzz_mov_ecx(f, n);
		FUZZ_EMIT(f, "\xe2\xfe");		/* loop . */
		break;
	case 3:
		fuzz_mov_ecx(f, n);
		FUZZ_EMIT(f, "\x4c\x89\xf7"		/* mov %r14, %rdi */
			     "\xf3\xaa");		/* rep stosb */
		break;
	default:
		while (n--)
			FUZZ_EMIT(f, "\x90");
	}
}

/* What leaves a guest, and is completed for it. */
static inline void fuzz_op_exit(struct fuzz *f)
{
	uint32_t which = fuzz_below(f, 16);

	/* AMD's processors have no such timer, but their guests do. */
	if (f->is_amd && (which == 6 || which == 7))
		which = 15;
	switch (which) {
	case 0:
		FUZZ_EMIT(f, "\xe4\x80");		/* in $0x80, %al */
		break;
	case 1:
		FUZZ_EMIT(f, "\xe6\x80");		/* out %al, $0x80 */
		break;
	case 2:
		FUZZ_EMIT(f, "\xbe");			/* mov $, %esi */
		fuzz_emit32(f, FUZZ_MMIO);
		FUZZ_EMIT(f, "\x8b\x06"			/* mov (%rsi), %eax */
			     "\x89\x06");		/* mov %eax, (%rsi) */
		break;
	case 3:
		fuzz_mov_ecx(f, 3);
		FUZZ_EMIT(f, "\x4c\x89\xf6"		/* mov %r14, %rsi */
			     "\xba\x80\x00\x00\x00"	/* mov $0x80, %edx */
			     "\xf3\x6e");		/* rep outsb */
		break;
	case 4:
	case 5:
		FUZZ_EMIT(f, "\x0f\x08");		/* invd */
		break;
	case 6:
	case 7:
		fuzz_emit_wrmsr(f, FUZZ_TSC_DEADLINE, ~0ull >> 1);
		break;
	default:
		FUZZ_EMIT(f, "\x31\xc0"			/* xor %eax, %eax */
			     "\x0f\xa2");		/* cpuid */
	}
}

/* An interrupt that the program sends itself, taken at once. */
static inline void fuzz_op_ipi(struct fuzz *f)
{
	const uint64_t global_ctrl = f->global_ctrl;
	const uint32_t msr = fuzz_below(f, 2) ? FUZZ_X2APIC_SELF_IPI : FUZZ_X2APIC_ICR;

	fuzz_emit_global_ctrl(f, 0);
	FUZZ_EMIT(f, "\xfb\x90");			/* sti; nop */
	fuzz_emit_wrmsr(f, msr, FUZZ_IPI_VECTOR);
	fuzz_emit_global_ctrl(f, global_ctrl);
}

static inline void fuzz_op_interrupts(struct fuzz *f)
{
	switch (fuzz_below(f, 4)) {
	case 0:
		FUZZ_EMIT(f, "\xfa");			/* cli */
		break;
	case 1:
		fuzz_op_ipi(f);
		break;
	default:
		FUZZ_EMIT(f, "\xfb\x90");		/* sti; nop */
	}
}

static inline void fuzz_op(struct fuzz *f)
{
	static void (* const ops[])(struct fuzz *f) = {
		fuzz_op_rdmsr, fuzz_op_rdmsr, fuzz_op_rdmsr,
		fuzz_op_rdpmc, fuzz_op_rdpmc, fuzz_op_rdpmc,
		fuzz_op_control, fuzz_op_control, fuzz_op_control,
		fuzz_op_arm, fuzz_op_lvtpc, fuzz_op_interrupts,
		fuzz_op_compute, fuzz_op_compute, fuzz_op_exit,
		fuzz_op_write_counter, fuzz_op_write_counter,
	};
	const uint32_t n = fuzz_below(f, sizeof(ops) / sizeof(ops[0]));

	ops[n](f);
}

/* Everything off; what is pending is taken; all registers are read. */
static inline void fuzz_emit_end(struct fuzz *f)
{
	uint32_t i;

	fuzz_emit_wrmsr(f, fuzz_global_ctrl_msr(f), 0);
	FUZZ_EMIT(f, "\xfb\x90\x90\xfa");		/* sti; nop; nop; cli */
	for (i = 0; i < f->nr_gp; i++) {
		fuzz_emit_rdmsr(f, fuzz_selector_msr(f, i));
		fuzz_emit_rdmsr(f, fuzz_pmc_msr(f, i));
	}
	for (i = 0; i < f->nr_fixed; i++)
		fuzz_emit_rdmsr(f, FUZZ_FIXED0 + i);
	if (!f->is_amd)
		fuzz_emit_rdmsr(f, FUZZ_FIXED_CTRL);
	fuzz_emit_rdmsr(f, f->is_amd ? FUZZ_AMD_STATUS : FUZZ_STATUS);
	fuzz_emit_rdmsr(f, FUZZ_X2APIC_LVTPC);
	FUZZ_EMIT(f, "\xc3");				/* ret */
}

#include "pmu_fuzz_late.h"

/* An operation that is left out has been drawn all the same: the others stay what they are. */
static inline void fuzz_make_op(struct fuzz *f, const struct fuzz_program *program, uint32_t i)
{
	const uint64_t size = f->size, global_ctrl = f->global_ctrl, far = f->far;

	if (f->late)
		fuzz_late_op(f);
	else
		fuzz_op(f);
	if (!(program->without[i / 64] & FUZZ_BIT(i % 64)))
		return;
	f->size = size;
	f->global_ctrl = global_ctrl;
	f->far = far;
}

static inline void fuzz_make(struct fuzz *f, const struct fuzz_program *program)
{
	uint32_t i;

	f->rng = (program->number + 1) * 0x9e3779b97f4a7c15ull;
	f->size = 0;
	f->global_ctrl = 0;
	f->far = 0;
	for (i = 0; i < FUZZ_OPS; i++)
		fuzz_make_op(f, program, i);
	fuzz_emit_end(f);
}

/* --------------------------------------------------------------- running */

/* The timer is not to interrupt; TSC-deadline mode, where there is one, is what programs want. */
static inline void fuzz_mask_timer(const struct fuzz *f)
{
	fuzz_wrmsr(FUZZ_X2APIC_LVTT, FUZZ_LVT_MASKED | (f->is_amd ? 0 : FUZZ_LVTT_DEADLINE));
}

/* All registers to what programs begin with; x2APIC mode, interrupts off. */
static inline void fuzz_reset(const struct fuzz *f)
{
	uint32_t i;

	fuzz_status_msr = f->is_amd ? FUZZ_AMD_STATUS : FUZZ_STATUS;
	fuzz_status_reset_msr = f->is_amd ? FUZZ_AMD_STATUS_RESET : FUZZ_STATUS_RESET;
	fuzz_other_counter = f->is_amd ? 1 : FUZZ_BIT(30);
	fuzz_nmi_masks = f->is_amd ? FUZZ_LVT_MASKED : 0;
	fuzz_wrmsr(FUZZ_X2APIC_LVTPC, FUZZ_PMI_VECTOR | FUZZ_LVT_MASKED);
	fuzz_wrmsr(fuzz_global_ctrl_msr(f), 0);
	if (!f->is_amd)
		fuzz_wrmsr(FUZZ_FIXED_CTRL, 0);
	for (i = 0; i < f->nr_gp; i++) {
		fuzz_wrmsr(fuzz_selector_msr(f, i), 0);
		fuzz_wrmsr(fuzz_full_pmc_msr(f, i), 0);
	}
	for (i = 0; i < f->nr_fixed; i++)
		fuzz_wrmsr(FUZZ_FIXED0 + i, 0);
	fuzz_wrmsr(fuzz_status_reset_msr, fuzz_counters(f));
	for (i = 0; i < FUZZ_LOG_SIZE; i++)
		((volatile uint64_t *)f->log)[i] = 0;
}

static inline void fuzz_run_code(struct fuzz *f)
{
	register uint64_t r11 asm("r11") = FUZZ_PMI_VECTOR | FUZZ_LVT_MASKED;
	register uint64_t *r12 asm("r12") = f->log + FUZZ_LOG_LIMIT;
	register uint64_t r13 asm("r13") = 0;
	register uint8_t *r14 asm("r14") = f->buf;
	register uint64_t *r15 asm("r15") = f->log;
	uint64_t rax = (uint64_t)f->code;

	asm volatile("call *%%rax"
		     : "+a"(rax), "+r"(r11), "+r"(r12), "+r"(r13), "+r"(r14), "+r"(r15)
		     : : "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "cc", "memory");
	f->logged = r15 - f->log;
}

/* A hash of all that was logged. */
static inline uint64_t fuzz_hash(const struct fuzz *f)
{
	uint64_t hash = 0xcbf29ce484222325ull, i;

	for (i = 0; i < f->logged; i++) {
		hash ^= f->log[i];
		hash *= 0x100000001b3ull;
		hash ^= hash >> 29;
	}
	return hash;
}

/* Makes and runs a program; what it read, in one number. */
static inline uint64_t fuzz_run(struct fuzz *f, const struct fuzz_program *program)
{
	fuzz_make(f, program);
	fuzz_reset(f);
	fuzz_run_code(f);
	return fuzz_hash(f);
}

#endif /* SELFTEST_PMU_FUZZ_H */
