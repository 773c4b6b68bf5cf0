/* Tries what a container may not do; prints "name errno" for each, 0 for what was allowed. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void say(const char *name, long result) {
    printf("%s %d\n", name, result < 0 ? errno : 0);
    fflush(stdout);
}

#define HIGH (1L << 32)

/* The kernel's 32-bit entry takes other numbers: 359 is socket. */
static long socket32(long family) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(359L), "b"(family), "c"(1L), "d"(0L) : "memory", "r8", "r9", "r10", "r11");
    result = (int)result;
    if (result < 0) {
        errno = (int)-result;
        return -1;
    }
    return result;
}

int main(void) {
    char buffer[256] = {0};
    say("inet", syscall(SYS_socket, 2L, 1L, 0L));
    say("vsock", syscall(SYS_socket, 40L, 1L, 0L));
    say("vsock-high", syscall(SYS_socket, HIGH | 40L, 1L, 0L));
    say("vsock-32", socket32(40));
    say("alg", syscall(SYS_socket, 38L, 5L, 0L));
    say("alg-high", syscall(SYS_socket, HIGH | 38L, 5L, 0L));
    say("alg-32", socket32(38));
    say("unshare-user", syscall(SYS_unshare, 0x10000000L));
    say("unshare-mount", syscall(SYS_unshare, 0x20000L));
    say("unshare-high", syscall(SYS_unshare, HIGH | 0x10000000L));
    long child = syscall(SYS_clone, 0x10000000L | SIGCHLD, 0L, 0L, 0L, 0L);
    if (child == 0)
        _exit(0);
    say("clone-user", child);
    child = syscall(SYS_clone, HIGH | 0x10000000L | SIGCHLD, 0L, 0L, 0L, 0L);
    if (child == 0)
        _exit(0);
    say("clone-user-high", child);
    say("clone3", syscall(SYS_clone3, buffer, 88L));
    say("keyctl", syscall(SYS_keyctl, 0L, -3L, 0L));
    say("add_key", syscall(SYS_add_key, "user", "x", "y", 1L, -3L));
    say("bpf", syscall(SYS_bpf, 0L, buffer, 64L));
    say("mount", syscall(SYS_mount, "none", "/tmp", "tmpfs", 0L, ""));
    say("fsopen", syscall(SYS_fsopen, "tmpfs", 0L));
    say("open_tree", syscall(SYS_open_tree, -100L, "/tmp", 1L));
    say("open_by_handle_at", syscall(SYS_open_by_handle_at, -100L, buffer, 0L));
    say("perf_event_open", syscall(SYS_perf_event_open, buffer, 0L, -1L, -1L, 0L));
    say("userfaultfd", syscall(SYS_userfaultfd, 0L));
    say("io_uring_setup", syscall(SYS_io_uring_setup, 1L, buffer));
    say("init_module", syscall(SYS_init_module, buffer, 0L, ""));
    say("kexec_load", syscall(SYS_kexec_load, 0L, 0L, 0L, 0L));
    say("swapon", syscall(SYS_swapon, "/x", 0L));
    say("setns", syscall(SYS_setns, -1L, 0L));
    say("pivot_root", syscall(SYS_pivot_root, "/", "/"));
    say("settimeofday", syscall(SYS_settimeofday, 0L, 0L));
    say("acct", syscall(SYS_acct, "/x"));
    say("reboot", syscall(SYS_reboot, 0L, 0L, 0L, 0L));
    say("personality", syscall(SYS_personality, 0x0040000L));
    return 0;
}
