/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the kernel says, from some moment on.
 */
#ifndef SELFTEST_KMSG_H
#define SELFTEST_KMSG_H

/**
 * struct kmsg - /dev/kmsg
 * @fd: its file descriptor
 * @text: messages so far, a line each
 * @len: how long that is
 */
struct kmsg {
	int fd;
	char text[16384];
	unsigned int len;
};

/* From now on. */
void kmsg_start(struct kmsg *k);
void kmsg_stop(struct kmsg *k);

/* How many messages up to now have @text in them. */
unsigned int kmsg_count(struct kmsg *k, const char *text);

#endif /* SELFTEST_KMSG_H */
