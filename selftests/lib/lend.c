// SPDX-License-Identifier: GPL-2.0
/*
 * The PMU lent to nobody, by vpmu_lend.ko.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kvm_util.h"
#include "lend.h"

#define LEND_KO	"vpmu_lend.ko"

/* Beside the program, or where $VPMU_LEND_KO says. */
static int lend_module_open(void)
{
	char path[PATH_MAX];
	ssize_t len;

	if (getenv("VPMU_LEND_KO"))
		return open(getenv("VPMU_LEND_KO"), O_RDONLY | O_CLOEXEC);

	len = readlink("/proc/self/exe", path, sizeof(path) - sizeof(LEND_KO) - 1);
	if (len < 0)
		return -1;
	path[len] = '\0';
	strcpy(strrchr(path, '/') + 1, LEND_KO);
	return open(path, O_RDONLY | O_CLOEXEC);
}

static void lend_module_load(void)
{
	int fd = lend_module_open();

	if (fd < 0)
		return;
	syscall(SYS_finit_module, fd, "", 0);
	close(fd);
}

bool lend_is_available(void)
{
	if (access(LEND_DEVICE, R_OK | W_OK))
		lend_module_load();
	return !access(LEND_DEVICE, R_OK | W_OK);
}

struct lend lend_open(void)
{
	struct lend lend = { .fd = open(LEND_DEVICE, O_RDWR | O_CLOEXEC) };

	TEST_ASSERT(lend.fd >= 0, "open(%s) failed: %s", LEND_DEVICE, strerror(errno));
	lend.page = mmap(NULL, getpagesize(), PROT_READ | PROT_WRITE, MAP_SHARED, lend.fd, 0);
	TEST_ASSERT(lend.page != MAP_FAILED, "mmap() of %s failed: %s", LEND_DEVICE,
		    strerror(errno));
	return lend;
}

void lend_close(struct lend *lend)
{
	munmap((void *)lend->page, getpagesize());
	close(lend->fd);
}

int lend_create(struct lend *lend)
{
	return ioctl(lend->fd, LEND_CREATE) ? -errno : 0;
}

void lend_release(struct lend *lend)
{
	TEST_ASSERT(!ioctl(lend->fd, LEND_RELEASE), "LEND_RELEASE failed");
}

int lend_event_open(struct lend *lend, int cpu, bool exclude_guest)
{
	struct lend_event event = { .cpu = cpu, .exclude_guest = exclude_guest };

	return ioctl(lend->fd, LEND_EVENT_OPEN, &event) ? -errno : 0;
}

void lend_event_close(struct lend *lend)
{
	TEST_ASSERT(!ioctl(lend->fd, LEND_EVENT_CLOSE), "LEND_EVENT_CLOSE failed");
}

struct lend_run lend_run(struct lend *lend, const struct lend_run *how, struct lent *sum)
{
	struct lend_run run = *how;

	TEST_ASSERT(!ioctl(lend->fd, LEND_RUN, &run), "LEND_RUN failed: %s", strerror(errno));
	if (sum) {
		sum->shortest += run.times[2] - run.times[1];
		sum->longest += run.times[3] - run.times[0];
	}
	return run;
}

void lend_for(struct lend *lend, uint64_t nsecs, struct lent *sum)
{
	const struct lend_run how = { .nsecs = nsecs };

	lend_run(lend, &how, sum);
}

void lend_watch_start(struct lend *lend, const struct lend_watch *what)
{
	TEST_ASSERT(!ioctl(lend->fd, LEND_WATCH_START, what), "LEND_WATCH_START failed: %s",
		    strerror(errno));
}

struct lend_watch lend_watch_stop(struct lend *lend)
{
	struct lend_watch watch;

	TEST_ASSERT(!ioctl(lend->fd, LEND_WATCH_STOP, &watch), "LEND_WATCH_STOP failed: %s",
		    strerror(errno));
	TEST_ASSERT(!watch.missed, "%llu probes missed", watch.missed);
	return watch;
}

void lend_lockup(struct lend *lend, uint64_t nsecs)
{
	TEST_ASSERT(!ioctl(lend->fd, LEND_LOCKUP, &nsecs), "LEND_LOCKUP failed: %s",
		    strerror(errno));
}

void lend_mask_lvtpc(struct lend *lend)
{
	TEST_ASSERT(!ioctl(lend->fd, LEND_MASK_LVTPC), "LEND_MASK_LVTPC failed: %s",
		    strerror(errno));
}

unsigned int lend_nmis(struct lend *lend, int cpu, unsigned int nr)
{
	struct lend_nmis nmis = { .cpu = cpu, .nr = nr };

	TEST_ASSERT(!ioctl(lend->fd, LEND_NMIS, &nmis), "LEND_NMIS failed: %s", strerror(errno));
	return nmis.nr_unknown;
}

static void fail_start(struct lend *lend, const char *symbol, struct lend_fail fail)
{
	snprintf(fail.symbol, sizeof(fail.symbol), "%s", symbol);
	TEST_ASSERT(!ioctl(lend->fd, LEND_FAIL_START, &fail), "%s cannot be made to fail: %s",
		    symbol, strerror(errno));
}

void lend_fail_start(struct lend *lend, const char *symbol, int error)
{
	fail_start(lend, symbol, (struct lend_fail) { .error = error });
}

void lend_fail_start_nth(struct lend *lend, const char *symbol, int error, unsigned int nth)
{
	fail_start(lend, symbol, (struct lend_fail) { .error = error, .nth = nth });
}

void lend_override_start(struct lend *lend, const char *symbol, int value)
{
	fail_start(lend, symbol, (struct lend_fail) { .error = value, .anybody = 1 });
}

unsigned int lend_fail_stop(struct lend *lend)
{
	struct lend_fail fail;

	TEST_ASSERT(!ioctl(lend->fd, LEND_FAIL_STOP, &fail), "LEND_FAIL_STOP failed: %s",
		    strerror(errno));
	return fail.hits;
}

int lend_backend_register(struct lend *lend)
{
	return ioctl(lend->fd, LEND_BACKEND_REGISTER) ? -errno : 0;
}

void lend_backend_unregister(struct lend *lend)
{
	TEST_ASSERT(!ioctl(lend->fd, LEND_BACKEND_UNREGISTER),
		    "LEND_BACKEND_UNREGISTER failed: %s", strerror(errno));
}

bool lend_lsm_start(struct lend *lend)
{
	if (!ioctl(lend->fd, LEND_LSM_START))
		return true;
	TEST_ASSERT(errno == EOPNOTSUPP, "LEND_LSM_START failed: %s", strerror(errno));
	return false;
}

struct lend_lsm lend_lsm_read(struct lend *lend)
{
	struct lend_lsm lsm;

	TEST_ASSERT(!ioctl(lend->fd, LEND_LSM_READ, &lsm), "LEND_LSM_READ failed: %s",
		    strerror(errno));
	return lsm;
}
