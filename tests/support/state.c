/* Writes all that a program can inherit to the file that is its first argument: state FILE [ARG]... */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

extern char **environ;

static void bytes(FILE *out, const char *label, const char *text)
{
	fprintf(out, "%s ", label);
	for (; *text; text++)
		fprintf(out, *text > ' ' && *text < 127 && *text != '\\' ? "%c" : "\\x%02x", (unsigned char)*text);
	fputc('\n', out);
}

static void status(FILE *out)
{
	static const char *const wanted[] = { "Uid", "Gid", "Groups", "Umask", "NoNewPrivs", "Seccomp", "CapInh", "CapPrm",
		"CapEff", "CapBnd", "CapAmb", "SigBlk", "SigIgn", "SigCgt", "SigPnd", "Cpus_allowed", "THP_enabled" };
	char line[4096];
	FILE *in = fopen("/proc/self/status", "r");
	while (in && fgets(line, sizeof line, in))
		for (size_t at = 0; at < sizeof wanted / sizeof *wanted; at++)
			if (!strncmp(line, wanted[at], strlen(wanted[at])) && line[strlen(wanted[at])] == ':')
				fputs(line, out);
	if (in)
		fclose(in);
}

/* Into memory: no descriptor of the report's own is open yet. */
static size_t descriptors(char *text, size_t room)
{
	size_t used = 0;
	DIR *dir = opendir("/proc/self/fd");
	for (struct dirent *entry; dir && (entry = readdir(dir));) {
		char target[512];
		int fd = atoi(entry->d_name);
		if (*entry->d_name == '.' || fd == dirfd(dir))
			continue;
		ssize_t length = readlinkat(dirfd(dir), entry->d_name, target, sizeof target - 1);
		target[length < 0 ? 0 : length] = 0;
		used += snprintf(text + used, room - used, "descriptor %d %s flags %#x/%#x at %ld\n", fd, target,
		                 fcntl(fd, F_GETFL), fcntl(fd, F_GETFD), (long)lseek(fd, 0, SEEK_CUR));
	}
	if (dir)
		closedir(dir);
	return used;
}

int main(int argc, char **argv)
{
	static char open_now[1 << 16], cwd[4096];
	int death = 0;
	descriptors(open_now, sizeof open_now);
	FILE *out = argc > 1 ? fopen(argv[1], "w") : NULL;
	if (!out)
		return 99;
	fputs(open_now, out);
	status(out);
	prctl(PR_GET_PDEATHSIG, &death);
	fprintf(out, "securebits %d\ndumpable %d\ndeath %d\nslack %d\npersonality %#x\n", prctl(PR_GET_SECUREBITS),
	        prctl(PR_GET_DUMPABLE), death, prctl(PR_GET_TIMERSLACK), personality(0xffffffff));
	fprintf(out, "session %d group %d parent %d nice %d policy %d\n", getsid(0), getpgrp(), getppid(),
	        getpriority(PRIO_PROCESS, 0), sched_getscheduler(0));
	for (int limit = 0; limit < RLIM_NLIMITS; limit++) {
		struct rlimit value;
		getrlimit(limit, &value);
		fprintf(out, "limit %d %lld %lld\n", limit, (long long)value.rlim_cur, (long long)value.rlim_max);
	}
	bytes(out, "cwd", getcwd(cwd, sizeof cwd) ? cwd : strerror(errno));
	fprintf(out, "arguments %d\n", argc);
	for (int at = 0; at < argc; at++)
		bytes(out, "argument", argv[at]);
	for (char **variable = environ; *variable; variable++)
		bytes(out, "variable", *variable);
	return fclose(out) ? 99 : 0;
}
