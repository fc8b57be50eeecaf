// SPDX-License-Identifier: GPL-2.0
/*
 * The host's own perf events, for the vPMU selftests.
 */
#include <errno.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/compiler.h>

#include "host_event.h"
#include "kvm_util.h"
#include "processor.h"

struct perf_event_attr host_event_attr(void)
{
	return (struct perf_event_attr) {
		.type = PERF_TYPE_HARDWARE,
		.size = sizeof(struct perf_event_attr),
		.config = PERF_COUNT_HW_INSTRUCTIONS,
		.read_format = PERF_FORMAT_TOTAL_TIME_ENABLED | PERF_FORMAT_TOTAL_TIME_RUNNING,
		.disabled = 1,
		.exclude_kernel = 1,
		.exclude_hv = 1,
		.exclude_guest = 1,
	};
}

bool host_has_agent(void)
{
	return getenv("VPMU_BESIDE_EVENTS");
}

int host_event_open(struct perf_event_attr *attr, pid_t pid, int cpu)
{
	int fd = syscall(SYS_perf_event_open, attr, pid, cpu, -1, PERF_FLAG_FD_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

int host_event_open_ok(struct perf_event_attr *attr, pid_t pid, int cpu)
{
	int fd = host_event_open(attr, pid, cpu);

	TEST_ASSERT(fd >= 0, "perf_event_open() failed: %s", strerror(-fd));
	return fd;
}

struct host_count host_event_read(int fd)
{
	struct host_count count;

	TEST_ASSERT(read(fd, &count, sizeof(count)) == sizeof(count),
		    "read() of a perf event failed");
	return count;
}

void host_event_enable(int fd)
{
	TEST_ASSERT(!ioctl(fd, PERF_EVENT_IOC_ENABLE, 0), "PERF_EVENT_IOC_ENABLE failed");
}

void host_event_disable(int fd)
{
	TEST_ASSERT(!ioctl(fd, PERF_EVENT_IOC_DISABLE, 0), "PERF_EVENT_IOC_DISABLE failed");
}

/* Not inlined: around the loop it must retire the same for every caller. */
noinline uint64_t host_loop_count(int fd, uint64_t rounds)
{
	uint64_t before = host_event_read(fd).value;

	host_event_enable(fd);
	host_loop(rounds);
	host_event_disable(fd);
	return host_event_read(fd).value - before;
}

uint64_t host_loop_frame(int fd)
{
	uint64_t count, least = ~0ull;
	int i;

	for (i = 0; i < 5; i++) {
		count = host_loop_count(fd, 1) - HOST_LOOP_INSNS;
		if (count < least)
			least = count;
	}
	return least;
}

#define RECORD_PAGES	64

struct perf_event_mmap_page *host_records_map(int fd)
{
	void *page = mmap(NULL, (1 + RECORD_PAGES) * getpagesize(), PROT_READ | PROT_WRITE,
			  MAP_SHARED, fd, 0);

	TEST_ASSERT(page != MAP_FAILED, "mmap() of a perf event failed");
	return page;
}

void host_records_unmap(struct perf_event_mmap_page *page)
{
	munmap(page, (1 + RECORD_PAGES) * getpagesize());
}

uint64_t host_records(const struct perf_event_mmap_page *page, uint32_t type)
{
	const char *data = (const char *)page + page->data_offset;
	const struct perf_event_header *header;
	uint64_t at, nr = 0;

	TEST_ASSERT(page->data_head <= page->data_size, "The buffer of a perf event is too small");
	for (at = 0; at < page->data_head; at += header->size) {
		header = (const void *)(data + at);
		TEST_ASSERT(header->type != PERF_RECORD_LOST, "Records of a perf event are lost");
		nr += type == PERF_RECORD_MAX || header->type == type;
	}
	return nr;
}

int host_cpus(int *cpus, int max)
{
	cpu_set_t set;
	int cpu, nr = 0;

	TEST_ASSERT(!sched_getaffinity(0, sizeof(set), &set), "sched_getaffinity() failed");
	for (cpu = 0; cpu < CPU_SETSIZE && nr < max; cpu++) {
		if (CPU_ISSET(cpu, &set))
			cpus[nr++] = cpu;
	}
	return nr;
}

uint64_t host_interrupts(const char *name, int cpu)
{
	FILE *file = fopen("/proc/interrupts", "r");
	char line[4096], *field = NULL;
	uint64_t nr = 0;
	int i;

	TEST_ASSERT(file, "No /proc/interrupts");
	while (!field && fgets(line, sizeof(line), file)) {
		field = line + strspn(line, " ");
		if (strncmp(field, name, strlen(name)) || field[strlen(name)] != ':')
			field = NULL;
	}
	fclose(file);
	TEST_ASSERT(field, "No %s in /proc/interrupts", name);
	field += strlen(name) + 1;
	for (i = 0; i <= cpu; i++)
		nr = strtoull(field, &field, 10);
	return nr;
}

uint64_t host_all_interrupts(void)
{
	FILE *file = fopen("/proc/stat", "r");
	uint64_t nr = 0;
	char line[64];

	TEST_ASSERT(file, "No /proc/stat");
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "intr %lu", &nr) == 1)
			break;
	}
	fclose(file);
	return nr;
}

void host_expect_count(uint64_t count, uint64_t expected, uint64_t irqs_before)
{
	uint64_t excess = host_cpu_is_amd ? host_all_interrupts() - irqs_before : 0;

	TEST_ASSERT(count >= expected && count <= expected + excess,
		    "The host counted %lu instructions, its task retired %lu (excess allowed: %lu)",
		    count, expected, excess);
}
