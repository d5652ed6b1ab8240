// Makes system calls that a container must not be able to make. Each in a child of its own; prints a word for it and the
// error's number, 0 when the call worked, or the signal that ended it.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define X32 0x40000000L
#define ALG 38L

static long call(long number, long a, long b, long c, long d, long e) {
	long result = syscall(number, a, b, c, d, e);
	return result < 0 ? errno : 0;
}

// The 32-bit entry, with whole registers.
static long call32(long number, long a, long b, long c) {
#if defined(__x86_64__)
	long result;
	__asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c)
			 : "memory", "r8", "r9", "r10", "r11");
	return (int)result < 0 ? -(int)result : 0;
#else
	(void)number, (void)a, (void)b, (void)c;
	return ENOSYS;
#endif
}

static long arguments32(int family) {
	int *place = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS
#if defined(MAP_32BIT)
				| MAP_32BIT
#endif
			  , -1, 0);
	place[0] = family;
	place[1] = SOCK_SEQPACKET;
	place[2] = 0;
	return (long)place;
}

static long probe(int which, const char **name) {
	char handle[64] = {8, 0, 0, 0, 1};
	static char stack[4096];
	switch (which) {
#define PROBE(number, word, expression) case number: *name = word; return name[1] ? (expression) : 0;
	PROBE(0, "alg", call(SYS_socket, ALG, SOCK_SEQPACKET, 0, 0, 0))
	PROBE(1, "alg-high-bits", call(SYS_socket, ALG | 1L << 32, SOCK_SEQPACKET, 0, 0, 0))
	PROBE(2, "vsock", call(SYS_socket, AF_VSOCK, SOCK_STREAM, 0, 0, 0))
#if defined(__x86_64__)
	PROBE(3, "alg-x32", call(X32 | SYS_socket, ALG, SOCK_SEQPACKET, 0, 0, 0))
	PROBE(4, "alg-int80", call32(359, ALG, SOCK_SEQPACKET, 0))
	PROBE(5, "alg-int80-socketcall", call32(102, 1, arguments32(ALG), 0))
	PROBE(6, "alg-int80-socketcall-high-bits", call32(102, 1L << 32 | 1, arguments32(ALG), 0))
	PROBE(7, "mount-int80", call32(21, 0, 0, 0))
	PROBE(8, "open-by-handle-x32", call(X32 | SYS_open_by_handle_at, AT_FDCWD, (long)handle, O_RDONLY, 0, 0))
#endif
	PROBE(9, "open-by-handle", call(SYS_open_by_handle_at, AT_FDCWD, (long)handle, O_RDONLY, 0, 0))
	PROBE(10, "add-key", call(SYS_add_key, (long)"user", (long)"k", (long)"v", 1, -3))
	PROBE(11, "keyctl", call(SYS_keyctl, 0, -3, 1, 0, 0))
	PROBE(12, "request-key", call(SYS_request_key, (long)"user", (long)"k", 0, 0, 0))
	PROBE(13, "bpf", call(SYS_bpf, 0, 0, 0, 0, 0))
	PROBE(14, "perf-event", call(SYS_perf_event_open, 0, 0, -1, -1, 0))
	PROBE(15, "userfaultfd", call(SYS_userfaultfd, 0, 0, 0, 0, 0))
	PROBE(16, "new-user-namespace", call(SYS_unshare, CLONE_NEWUSER, 0, 0, 0, 0))
	PROBE(17, "clone-user-namespace", call(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0))
	PROBE(18, "new-mounts", call(SYS_unshare, CLONE_NEWNS, 0, 0, 0, 0))
	PROBE(19, "mount", call(SYS_mount, 0, 0, 0, 0, 0))
	PROBE(20, "umount", call(SYS_umount2, (long)"/proc/kcore", 2, 0, 0, 0))
	PROBE(21, "move-mount", call(SYS_move_mount, -1, (long)"", -1, (long)"", 0))
	PROBE(22, "open-tree", call(SYS_open_tree, -1, (long)"", 0, 0, 0))
	PROBE(23, "fsopen", call(SYS_fsopen, (long)"proc", 0, 0, 0, 0))
	PROBE(24, "pivot-root", call(SYS_pivot_root, 0, 0, 0, 0, 0))
	PROBE(25, "setns", call(SYS_setns, -1, 0, 0, 0, 0))
	PROBE(26, "load-module", call(SYS_init_module, 0, 0, 0, 0, 0))
	PROBE(27, "load-module-file", call(SYS_finit_module, -1, 0, 0, 0, 0))
	PROBE(28, "io-uring", call(SYS_io_uring_setup, 0, 0, 0, 0, 0))
	PROBE(29, "syslog", call(SYS_syslog, 3, (long)stack, 0, 0, 0))
	PROBE(30, "swap", call(SYS_swapon, 0, 0, 0, 0, 0))
	PROBE(31, "kexec", call(SYS_kexec_load, 0, 1L << 20, 0, 0, 0))
	PROBE(32, "quota", call(SYS_quotactl, 0, 0, 0, 0, 0))
	PROBE(33, "clock", call(SYS_clock_settime, 0, 0, 0, 0, 0))
	}
	*name = NULL;
	return 0;
}

int main(void) {
	for (int which = 0; which < 34; which++) {
		const char *name[2] = {NULL, NULL};
		probe(which, name);
		if (!name[0])
			continue;
		fflush(stdout);
		pid_t child = fork();
		if (child == 0) {
			name[1] = "now";
			_exit((int)probe(which, name));
		}
		int status = 0;
		waitpid(child, &status, __WALL);
		if (WIFSIGNALED(status))
			printf("%s signal-%d\n", name[0], WTERMSIG(status));
		else
			printf("%s %d\n", name[0], WEXITSTATUS(status));
	}
	return 0;
}
