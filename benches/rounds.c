/*
 * Measures whole processes, from vfork to wait4. Every round runs each command once, so that other load on the machine
 * affects all of them equally.
 *
 *     rounds N LABEL:UID:EVERY COMMAND [ARG]... [, LABEL:UID:EVERY COMMAND [ARG]...]...
 *
 * UID is the user and group that the command runs as; the environment variable GROUP is its supplementary group. A slow
 * command can be run in every EVERYth round only. For each command, prints the label, the number of runs, the median
 * and the 10th percentile in microseconds, and the ratio of the median to that of the second command. Exits with 1 if a
 * command does not exit with 0.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define COMMANDS 16

struct command {
	char label[64];
	unsigned uid;
	int every, runs;
	char **argv;
	double *times;
};

static gid_t group;
static int null;

static double now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1e6 + time.tv_nsec / 1e3;
}

static double run(const struct command *command)
{
	int status;
	double start = now();
	pid_t child = vfork();
	if (child == 0) {
		dup2(null, 1);
		if (command->uid &&
		    (setgroups(1, &group) || setresgid(command->uid, command->uid, command->uid) ||
		     setresuid(command->uid, command->uid, command->uid)))
			_exit(99);
		execvp(command->argv[0], command->argv);
		_exit(98);
	}
	if (child < 0 || wait4(child, &status, 0, NULL) != child || status != 0) {
		fprintf(stderr, "%s: failed, status %#x\n", command->label, status);
		exit(1);
	}
	return now() - start;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
	struct command commands[COMMANDS];
	int count = 0, rounds = argc > 2 ? atoi(argv[1]) : 0;
	group = atoi(getenv("GROUP") ? getenv("GROUP") : "0");
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int at = 2; at < argc && count < COMMANDS; at++) {
		struct command *command = &commands[count++];
		memset(command, 0, sizeof *command);
		if (sscanf(argv[at], "%63[^:]:%u:%d", command->label, &command->uid, &command->every) != 3)
			return 2;
		command->argv = &argv[at + 1];
		command->times = calloc(rounds, sizeof(double));
		while (at < argc && strcmp(argv[at], ","))
			at++;
		if (at < argc)
			argv[at] = NULL;
	}
	for (int round = -3; round < rounds; round++)
		for (int at = 0; at < count; at++) {
			struct command *command = &commands[at];
			if (round >= 0 && round % command->every)
				continue;
			double time = run(command);
			if (round >= 0)
				command->times[command->runs++] = time;
		}
	for (int at = 0; at < count; at++)
		qsort(commands[at].times, commands[at].runs, sizeof(double), compare);
	double base = commands[count > 1].times[commands[count > 1].runs / 2];
	for (int at = 0; at < count; at++) {
		struct command *command = &commands[at];
		double median = command->times[command->runs / 2];
		printf("%-34s %6d %9.0f %9.0f %8.2f\n", command->label, command->runs, median,
		       command->times[command->runs / 10], median / base);
	}
	return 0;
}
