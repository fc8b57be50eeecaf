// SPDX-License-Identifier: GPL-2.0
/*
 * What the guest runs under perf: most of it in one loop whose number of
 * instructions is known, and a child to whom the processor is handed back
 * and forth, so that perf's events are switched as on a busy machine.
 *
 * workload ROUNDS: prints the number of instructions of the loop.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#define ITERATIONS	1000000ull
#define INSNS_PER_ITER	4	/* the loop body below */

/* Not inlined, and with a symbol of its own: the profile must show it. */
__attribute__((noinline, noclone)) static void hot_loop(uint64_t iterations)
{
	uint64_t x = 1;

	asm volatile("1:\n\t"
		     "imul	$0x5851f42d, %1, %1\n\t"
		     "add	$1, %1\n\t"
		     "dec	%0\n\t"
		     "jnz	1b"
		     : "+r"(iterations), "+r"(x) : : "cc");
}

static void echo(int from, int to)
{
	char c;

	while (read(from, &c, 1) == 1 && write(to, &c, 1) == 1)
		hot_loop(ITERATIONS / 100);
}

int main(int argc, char **argv)
{
	unsigned long rounds = argc > 1 ? strtoul(argv[1], NULL, 0) : 100, i;
	int there[2], back[2];
	char c = 0;
	pid_t child;

	if (pipe(there) || pipe(back))
		return 1;
	child = fork();
	if (child < 0)
		return 1;
	if (!child) {
		close(there[1]);
		echo(there[0], back[1]);
		_exit(0);
	}
	for (i = 0; i < rounds; i++) {
		hot_loop(ITERATIONS);
		if (write(there[1], &c, 1) != 1 || read(back[0], &c, 1) != 1)
			return 1;
	}
	close(there[1]);
	waitpid(child, NULL, 0);
	printf("%llu\n", rounds * (ITERATIONS + ITERATIONS / 100) * INSNS_PER_ITER);
	return 0;
}
