// SPDX-License-Identifier: GPL-2.0
/*
 * What the kernel says.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "kmsg.h"
#include "kvm_util.h"

void kmsg_start(struct kmsg *k)
{
	k->fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	TEST_ASSERT(k->fd >= 0, "open(/dev/kmsg) failed: %s", strerror(errno));
	TEST_ASSERT(lseek(k->fd, 0, SEEK_END) >= 0, "lseek() of /dev/kmsg failed");
	k->text[0] = '\0';
	k->len = 0;
}

void kmsg_stop(struct kmsg *k)
{
	close(k->fd);
}

/* A record is "priority,sequence,time,flags;message", and maybe lines about a device. */
static void add_record(struct kmsg *k, char *record)
{
	const char *message = strchr(record, ';');
	size_t len = message ? strcspn(++message, "\n") : 0;

	TEST_ASSERT(k->len + len + 2 < sizeof(k->text), "The kernel says too much");
	memcpy(k->text + k->len, message, len);
	k->len += len;
	k->text[k->len++] = '\n';
	k->text[k->len] = '\0';
}

unsigned int kmsg_count(struct kmsg *k, const char *text)
{
	unsigned int nr = 0;
	char record[8192];
	const char *found;
	ssize_t len;

	/* One read is one record; EPIPE tells that some were overwritten. */
	for (;;) {
		len = read(k->fd, record, sizeof(record) - 1);
		if (len < 0 && errno == EPIPE)
			continue;
		if (len <= 0)
			break;
		record[len] = '\0';
		add_record(k, record);
	}
	for (found = strstr(k->text, text); found; found = strstr(found + 1, text))
		nr++;
	return nr;
}
