/* Many forks, always bounded.
 * fork bomb | tree PER_SECOND MOST | reaper PER_SECOND | reuse LIFETIME_MS | zombies COUNT |
 * ignored COUNT | adopt COUNT */
#include "lab.h"
#include <linux/sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/syscall.h>

/* A bomb must not go off outside the control group that bounds it. */
static int in_the_labs_cgroup(void)
{
    char text[4096] = "";
    FILE *file = fopen("/proc/self/cgroup", "re");
    size_t length = file ? fread(text, 1, sizeof text - 1, file) : 0;
    text[length] = 0;
    if (file)
        fclose(file);
    return strstr(text, "/rung-lab-") != NULL;
}

static void bomb(void)
{
    lab_await("go");
    if (!in_the_labs_cgroup()) {
        fprintf(stderr, "not in the lab's cgroup: no bomb\n");
        exit(1);
    }
    for (;;) {
        pid_t child = fork();
        if (child == 0)
            lab_bound();
        /* Every child goes on forking; a refused fork is tried again. */
        lab_sleep_us(child < 0 ? 20000 : 2000);
    }
}

static void sleep_out(void)
{
    lab_bound();
    for (;;)
        lab_sleep_us(1000000000);
}

static void tree(long per_second, int most)
{
    for (int i = 0; i < most; i++) {
        if (fork() == 0)
            sleep_out();
        lab_sleep_us(1000000 / per_second);
    }
    sleep_out();
}

/* Children that live some milliseconds, each reaped within 50 ms. */
static void reaper(long per_second)
{
    for (;;) {
        if (fork() == 0) {
            lab_sleep_us(3000);
            _exit(0);
        }
        lab_sleep_us(1000000 / per_second);
        while (waitpid(-1, NULL, WNOHANG) > 0) {
        }
    }
}

/* Children of one pid, one after another, each waiting for a pipe that nobody writes to. */
static void reuse(long lifetime_ms)
{
    pid_t pid = 0;
    int ends[2];
    lab_check(pipe(ends) ? errno : 0, "pipe");
    for (;;) {
        struct clone_args args = { .exit_signal = SIGCHLD };
        pid_t child;
        if (pid) {
            args.set_tid = (uintptr_t)&pid;
            args.set_tid_size = 1;
        }
        child = (pid_t)syscall(SYS_clone3, &args, sizeof args);
        lab_check(child < 0 ? errno : 0, "clone3");
        if (child == 0) {
            char byte;
            if (read(ends[0], &byte, 1) < 0)
                perror("read");
            _exit(0);
        }
        if (!pid)
            lab_say("child", child);
        pid = child;
        lab_sleep_us(lifetime_ms * 1000);
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
}

static void children_that_exit(int count)
{
    for (int i = 0; i < count; i++)
        if (fork() == 0)
            _exit(0);
}

/* Orphans of a short-lived child: they fall to this process if it is PID 1 of its namespace. */
static void adopt(int count)
{
    pid_t child = fork();
    if (child == 0) {
        for (int i = 0; i < count; i++)
            if (fork() == 0) {
                lab_sleep_us(50000);
                _exit(0);
            }
        _exit(0);
    }
    waitpid(child, NULL, 0);
}

int main(int argc, char **argv)
{
    const char *kind = argc > 1 ? argv[1] : "";
    int count = argc > 2 ? atoi(argv[2]) : 50;
    lab_bound();
    lab_say("ready", getpid());
    if (!strcmp(kind, "bomb")) {
        bomb();
    } else if (!strcmp(kind, "tree")) {
        tree(count, argc > 3 ? atoi(argv[3]) : 600);
    } else if (!strcmp(kind, "reaper")) {
        reaper(count);
    } else if (!strcmp(kind, "reuse")) {
        reuse(count);
    } else if (!strcmp(kind, "zombies")) {
        children_that_exit(count);
        sleep_out();
    } else if (!strcmp(kind, "ignored")) {
        signal(SIGCHLD, SIG_IGN);
        for (;;) {
            children_that_exit(count);
            lab_sleep_us(200000);
        }
    } else if (!strcmp(kind, "adopt")) {
        const char *seconds = getenv("RUNG_LAB_SECONDS");
        adopt(count);
        /* PID 1 of a namespace is deaf to its alarm: it must leave by itself. */
        lab_sleep_us((seconds ? atol(seconds) : 900) * 1000000);
        return 0;
    }
    fprintf(stderr, "%s: no such kind\n", kind);
    return 1;
}
