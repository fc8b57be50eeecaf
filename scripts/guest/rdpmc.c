// SPDX-License-Identifier: GPL-2.0
/*
 * Count in user space, without the kernel: perf maps a page that tells which
 * counter an event has, and RDPMC reads it (perf_event_open(2)). Two loops are
 * counted; what one is longer must be what its count is larger, to the
 * instruction. On AMD an interrupt's IRET belongs to where it returns to: there
 * each interrupt may add one.
 */
#include <linux/perf_event.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SHORT		1000ull
#define LONG		3000000ull	/* long enough to lose the processor in between */
#define LOOP_INSNS	2

static int fail(const char *what)
{
	printf("%s\n", what);
	return 1;
}

static uint64_t rdpmc(uint32_t counter)
{
	uint32_t low, high;

	asm volatile("rdpmc" : "=a"(low), "=d"(high) : "c"(counter));
	return low | (uint64_t)high << 32;
}

/* 0 where the event has no counter now. */
static int read_event(const volatile struct perf_event_mmap_page *page, uint64_t *count)
{
	uint32_t seq, index;
	int64_t pmc;

	do {
		seq = page->lock;
		asm volatile("" ::: "memory");
		index = page->index;
		*count = page->offset;
		if (index) {
			pmc = rdpmc(index - 1);
			pmc <<= 64 - page->pmc_width;
			*count += pmc >> (64 - page->pmc_width);
		}
		asm volatile("" ::: "memory");
	} while (page->lock != seq);
	return index;
}

/* Not inlined: around the loop it retires the same for every caller. */
__attribute__((noinline, noclone))
static uint64_t count_loop(const volatile struct perf_event_mmap_page *page, uint64_t rounds)
{
	uint64_t before, after;

	if (!read_event(page, &before))
		return 0;
	asm volatile("1: dec %0\n\t"
		     "jnz 1b"
		     : "+r"(rounds) : : "cc");
	if (!read_event(page, &after))
		return 0;
	return after - before;
}

/* Interrupts of the whole machine since boot. */
static uint64_t interrupts(void)
{
	FILE *file = fopen("/proc/stat", "r");
	unsigned long long nr = 0;
	char line[64];

	while (file && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "intr %llu", &nr) == 1)
			break;
	}
	if (file)
		fclose(file);
	return nr;
}

int main(void)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_HARDWARE,
		.size = sizeof(attr),
		.config = PERF_COUNT_HW_INSTRUCTIONS,
		.pinned = 1,
		.exclude_kernel = 1,
	};
	int fd = syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0);
	const volatile struct perf_event_mmap_page *page;
	uint64_t less, more, irqs, excess, want = (LONG - SHORT) * LOOP_INSNS;

	if (fd < 0)
		return fail("perf_event_open() failed");
	page = mmap(NULL, getpagesize(), PROT_READ, MAP_SHARED, fd, 0);
	if (page == MAP_FAILED)
		return fail("mmap() of the event failed");
	if (!page->cap_user_rdpmc)
		return fail("the kernel does not let user space use RDPMC");
	irqs = interrupts();
	less = count_loop(page, SHORT);
	more = count_loop(page, LONG);
	excess = __builtin_cpu_is("amd") ? interrupts() - irqs : 0;
	if (!less || !more)
		return fail("the event lost its counter");
	printf("%llu instructions more, expected %llu, or up to %llu more than that\n",
	       (unsigned long long)(more - less), (unsigned long long)want,
	       (unsigned long long)excess);
	/* The shorter one may have been interrupted, too. */
	return more - less + excess < want || more - less > want + excess;
}
