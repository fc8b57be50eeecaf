// SPDX-License-Identifier: GPL-2.0
/*
 * mark CHARACTER: tell the host where the guest is, through QEMU's debug
 * console port, and give the host the time to look.
 */
#include <sys/io.h>
#include <unistd.h>

#define DEBUGCON_PORT	0xe9

int main(int argc, char **argv)
{
	if (argc != 2 || ioperm(DEBUGCON_PORT, 1, 1))
		return 1;
	outb(argv[1][0], DEBUGCON_PORT);
	usleep(20000);
	return 0;
}
