// SPDX-License-Identifier: GPL-2.0
/*
 * costs FIFO: for each character that comes out of FIFO print a line with
 * the character and the emulated machine's cost counters at that moment.
 */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "emucost.h"

static const unsigned int columns[] = {
	EMUCOST_VMEXITS, EMUCOST_HOST_INSNS, EMUCOST_GUEST_INSNS, EMUCOST_HOST_WRMSR,
	EMUCOST_HOST_RDMSR, EMUCOST_HOST_RDPMC, EMUCOST_PMIS,
};

int main(int argc, char **argv)
{
	unsigned int i;
	int fd;
	char c;

	if (argc != 2)
		return 2;
	/* First: the writer waits for a reader. */
	fd = open(argv[1], O_RDONLY);
	if (fd < 0) {
		perror(argv[1]);
		return 1;
	}
	if (emucost_open()) {
		fprintf(stderr, "costs: this machine has no cost counters\n");
		return 1;
	}
	while (read(fd, &c, 1) == 1) {
		emucost_latch();
		printf("@cost %c", c);
		for (i = 0; i < sizeof(columns) / sizeof(*columns); i++)
			printf(" %llu", (unsigned long long)emucost_read_all(columns[i]));
		putchar('\n');
		fflush(stdout);
	}
	return 0;
}
