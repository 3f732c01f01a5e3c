/*
 * The baseline for runns-exec: makes the system calls that entering a namespace needs, in the same order, and then
 * calls exec. It checks nothing, prints nothing and reads no configuration; what remains is the kernel's cost.
 *
 *     bare NAME COMMAND [ARG]...
 *
 * For measurements only: with the file capabilities of runns-exec, every user who can execute it can become root.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <net/if.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CALL_mount_setattr 442
#define CALL_statmount 457
#define CALL_listmount 458
#define UNIQUE_ID 0x4000 /* STATX_MNT_ID_UNIQUE */
#define POINT 0x10       /* STATMOUNT_MNT_POINT */
#define SOURCE 0x200     /* STATMOUNT_SB_SOURCE */
#define ENTRIES 64

struct request {
	uint32_t size, spare;
	uint64_t mount, param;
};

static void end(const char *what)
{
	perror(what);
	_exit(125);
}

static long must(long value, const char *what)
{
	if (value < 0)
		end(what);
	return value;
}

static int place(int dir, const char *path)
{
	return must(openat(dir, path, O_PATH | O_NOFOLLOW | O_CLOEXEC), path);
}

static int copy_of(int fd)
{
	return must(syscall(SYS_open_tree, fd, "", 1 | O_CLOEXEC | AT_EMPTY_PATH | AT_RECURSIVE), "open_tree");
}

static void attach(int tree, int dir, const char *name)
{
	must(syscall(SYS_move_mount, tree, "", dir, name, 0x4 | (*name ? 0 : 0x40)), "move_mount");
}

static void capabilities(uint32_t permitted, uint32_t effective)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2] = { { effective, permitted, 0 } };
	must(syscall(SYS_capset, &header, data), "capset");
}

/* Which namespace it is. */
static int arrived(void)
{
	struct ifreq lo = { .ifr_name = "lo" };
	uint64_t cookie;
	socklen_t size = sizeof cookie;
	int probe = must(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket");
	must(getsockopt(probe, SOL_SOCKET, 71 /* SO_NETNS_COOKIE */, &cookie, &size), "SO_NETNS_COOKIE");
	must(ioctl(probe, SIOCGIFTXQLEN, &lo), "SIOCGIFTXQLEN");
	return probe;
}

static void loopback(int probe)
{
	struct ifreq lo = { .ifr_name = "lo" };
	must(ioctl(probe, SIOCGIFFLAGS, &lo), "SIOCGIFFLAGS");
	if (!(lo.ifr_flags & IFF_UP)) {
		lo.ifr_flags |= IFF_UP;
		must(ioctl(probe, SIOCSIFFLAGS, &lo), "SIOCSIFFLAGS");
	}
	close(probe);
}

/* Copies one text field of a mount: its source, or its mount point. */
static void about(uint64_t mount, uint64_t mask, int field, char *text, size_t room)
{
	static char answer[2048];
	struct request request = { sizeof request, 0, mount, mask };
	uint32_t offset;
	must(syscall(CALL_statmount, &request, answer, sizeof answer, 0), "statmount");
	memcpy(&offset, answer + field, sizeof offset);
	snprintf(text, room, "%s", answer + 512 + offset);
}

static void sys(void)
{
	char path[ENTRIES][256], source[256];
	uint64_t children[256];
	int trees[ENTRIES], count = 0;
	struct statx old;
	struct statvfs flags;
	int sys = place(AT_FDCWD, "/sys");
	must(statx(sys, "", AT_EMPTY_PATH, UNIQUE_ID, &old), "statx");
	/* Find out whether this already is the view of another namespace. */
	about(old.stx_mnt_id, SOURCE, 124, source, sizeof source);
	struct request request = { sizeof request, 0, old.stx_mnt_id, 0 };
	int found = must(syscall(CALL_listmount, &request, children, 256, 0), "listmount");
	for (int at = 0; at < found && count < ENTRIES; at++) {
		about(children[at], POINT, 108, path[count], sizeof path[count]);
		/* Mounts below another mount are copied with it; parents are listed first. */
		size_t length = count ? strlen(path[count - 1]) : 0;
		if (length && !strncmp(path[count], path[count - 1], length) && path[count][length] == '/')
			continue;
		int below = place(AT_FDCWD, path[count]);
		trees[count++] = copy_of(below);
		close(below);
	}
	must(statvfs("/sys", &flags), "statvfs");
	int fs = must(syscall(SYS_fsopen, "sysfs", 1), "fsopen");
	must(syscall(SYS_fsconfig, fs, 1, "source", "bare", 0), "fsconfig");
	must(syscall(SYS_fsconfig, fs, 6, NULL, NULL, 0), "fsconfig");
	int mount = must(syscall(SYS_fsmount, fs, 1, 0xe | (flags.f_flag & ST_RDONLY)), "fsmount");
	attach(mount, sys, "");
	for (int at = 0; at < count; at++) {
		int below = place(AT_FDCWD, path[at]);
		attach(trees[at], below, "");
		close(below);
		close(trees[at]);
	}
	close(mount);
	close(fs);
	close(sys);
}

/* Covers the sockets of the host's name services with an empty directory that build keeps. */
static void services(void)
{
	static const char *const paths[] = { "/run/nscd", "/var/run/nscd", "/run/systemd/resolve", "/run/avahi-daemon" };
	static const uint64_t attributes[4] = { 0xf }; /* read-only, nosuid, nodev, noexec */
	struct stat seen[4];
	int mask = -1, known = 0;
	for (int at = 0; at < 4; at++) {
		int again = 0, place = open(paths[at], O_PATH | O_NOFOLLOW | O_CLOEXEC);
		if (place < 0)
			continue;
		must(fstat(place, &seen[known]), "fstat");
		for (int other = 0; other < known; other++)
			again |= seen[other].st_ino == seen[known].st_ino && seen[other].st_dev == seen[known].st_dev;
		if (!again) {
			known++;
			if (mask < 0) {
				int empty = must(open("/run/runns/.empty", O_PATH | O_NOFOLLOW | O_CLOEXEC), "open");
				mask = copy_of(empty);
				must(syscall(CALL_mount_setattr, mask, "", AT_EMPTY_PATH, attributes, sizeof attributes),
				     "mount_setattr");
				close(empty);
				attach(mask, place, "");
			} else {
				int copy = copy_of(mask);
				attach(copy, place, "");
				close(copy);
			}
		}
		close(place);
	}
	if (mask >= 0)
		close(mask);
}

/* A file of its own with the host's /etc/hosts and the lines that build added to it, where that has changed since. */
static int new_hosts(int etc)
{
	static const uint64_t attributes[4] = { 1 }; /* read-only */
	static char text[65536];
	int old = must(open("/etc/hosts", O_RDONLY | O_CLOEXEC), "/etc/hosts");
	ssize_t length = must(read(old, text, sizeof text - 64), "read");
	close(old);
	length += snprintf(text + length, 64, "\n172.24.0.1 host.runns\n");
	int fs = must(syscall(SYS_fsopen, "tmpfs", 1), "fsopen");
	must(syscall(SYS_fsconfig, fs, 1, "source", "bare", 0), "fsconfig");
	must(syscall(SYS_fsconfig, fs, 1, "mode", "0755", 0), "fsconfig");
	must(syscall(SYS_fsconfig, fs, 6, NULL, NULL, 0), "fsconfig");
	int directory = must(syscall(SYS_fsmount, fs, 1, 0xe), "fsmount");
	close(fs);
	int file = must(openat(directory, "hosts", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0400), "hosts");
	must(write(file, text, length), "write");
	must(fchmod(file, 0444), "fchmod");
	close(file);
	file = place(directory, "hosts");
	must(syscall(CALL_mount_setattr, directory, "", AT_EMPTY_PATH, attributes, sizeof attributes), "mount_setattr");
	attach(directory, etc, "");
	int tree = copy_of(file);
	must(umount2("/etc", MNT_DETACH), "umount2");
	close(file);
	close(directory);
	return tree;
}

/* The hosts file with the name of the host, if build left one. */
static int hosts(const char *name, int etc)
{
	char path[256];
	struct stat kept, host;
	snprintf(path, sizeof path, "/run/runns/.hosts-%s", name);
	int file = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (file < 0)
		return -1;
	must(fstat(file, &kept), "fstat");
	must(stat("/etc/hosts", &host), "stat");
	int tree = kept.st_mtime == host.st_mtime ? copy_of(file) : new_hosts(etc);
	close(file);
	return tree;
}

static void etc(const char *name)
{
	char directory[256], entry[ENTRIES][256];
	int trees[ENTRIES], count = 0;
	snprintf(directory, sizeof directory, "/etc/netns/%s", name);
	int netns = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (netns < 0)
		return;
	DIR *list = fdopendir(netns);
	int resolver = 0;
	for (struct dirent *next; list && count < ENTRIES && (next = readdir(list));) {
		if (next->d_name[0] == '.' || next->d_name[strlen(next->d_name) - 1] == '~')
			continue;
		snprintf(entry[count], sizeof entry[count], "%s", next->d_name);
		resolver |= !strcmp(entry[count], "resolv.conf");
		int file = place(netns, entry[count]);
		trees[count++] = copy_of(file);
		close(file);
	}
	if (count) {
		int old = place(AT_FDCWD, "/etc");
		int own = hosts(name, old);
		int new = copy_of(old);
		attach(new, old, "");
		if (own >= 0) {
			attach(own, new, "hosts");
			close(own);
		}
		for (int at = 0; at < count; at++) {
			attach(trees[at], new, entry[at]);
			close(trees[at]);
		}
		close(new);
		close(old);
	}
	closedir(list);
	if (resolver)
		services();
}

/* One line to the system log, where there is one. */
static void log_line(const char *name, const char *command)
{
	struct sockaddr_un log = { AF_UNIX, "/dev/log" };
	char line[512];
	int fd = must(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), "socket");
	if (!connect(fd, (struct sockaddr *)&log, sizeof log)) {
		int length = snprintf(line, sizeof line, "<85>bare[%d]: %d in %s: %s", getpid(), getuid(), name, command);
		send(fd, line, length, MSG_NOSIGNAL);
	}
	close(fd);
}

int main(int argc, char **argv)
{
	static char path[256], variable[256];
	if (argc < 3)
		return 125;
	snprintf(path, sizeof path, "/run/netns/%s", argv[1]);
	snprintf(variable, sizeof variable, "RUNNS_NETNS=%s", argv[1]);
	int netns = must(open(path, O_RDONLY | O_CLOEXEC), path);
	log_line(argv[1], argv[2]);
	uint32_t both = 1u << CAP_NET_ADMIN | 1u << CAP_SYS_ADMIN;
	capabilities(both, both);
	must(setns(netns, CLONE_NEWNET), "setns");
	int probe = arrived();
	must(unshare(CLONE_NEWNS), "unshare");
	must(mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL), "mount");
	sys();
	etc(argv[1]);
	loopback(probe);
	must(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "prctl");
	capabilities(0, 0);
	putenv(variable);
	execvp(argv[2], argv + 2);
	end(argv[2]);
}
