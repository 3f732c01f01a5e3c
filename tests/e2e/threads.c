/* Processes that their main thread does not show: threads COMMAND [ARG]...
 *   threads ended            the main thread ends, another one goes on
 *   threads inside NETNS     the main thread stays where it is, another one enters the network namespace of that file
 * Prints a line when it is so. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void *stay(void *file)
{
	if (file && setns(open(file, O_RDONLY | O_CLOEXEC), CLONE_NEWNET))
		_exit(1);
	/* The state of a main thread that has ended is Z. */
	for (char state = 0; !file && state != 'Z'; ) {
		FILE *stat = fopen("/proc/self/stat", "r");
		if (!stat || fscanf(stat, "%*d (%*[^)]) %c", &state) != 1)
			_exit(1);
		fclose(stat);
	}
	puts("ready");
	fflush(stdout);
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	pthread_t thread;
	char *file = argc > 2 && !strcmp(argv[1], "inside") ? argv[2] : NULL;
	if (pthread_create(&thread, NULL, stay, file))
		return 1;
	if (file)
		pthread_join(thread, NULL);
	pthread_exit(NULL);
}
