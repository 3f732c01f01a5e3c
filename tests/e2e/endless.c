/* Gives itself a command line of 400 GB that takes no memory (prctl(2), PR_SET_MM_MAP), prints a line, and stays. */
#include <linux/prctl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

int main(void)
{
	static char text[4096];
	unsigned long long field[52] = { 0 };
	size_t size = 400ull << 30;
	FILE *stat = fopen("/proc/self/stat", "r");
	if (!stat || !fgets(text, sizeof text, stat))
		return 1;
	char *rest = text;
	while (*rest != ')')
		rest++;
	rest += 3; /* the state, field 3 */
	for (int at = 4, used; at < 52 && sscanf(rest, " %llu%n", &field[at], &used) == 1; at++)
		rest += used;
	char *line = mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (line == MAP_FAILED)
		return 1;
	struct prctl_mm_map map = {
		.start_code = field[26], .end_code = field[27], .start_stack = field[28], .start_data = field[45],
		.end_data = field[46], .start_brk = field[47], .brk = (uintptr_t)sbrk(0), .arg_start = (uintptr_t)line,
		.arg_end = (uintptr_t)line + size, .env_start = field[50], .env_end = field[51], .exe_fd = -1,
	};
	if (prctl(PR_SET_MM, PR_SET_MM_MAP, &map, sizeof map, 0)) {
		perror("PR_SET_MM_MAP");
		return 1;
	}
	puts("ready");
	fflush(stdout);
	for (;;)
		pause();
}
