/* What every C actor of the fault lab shares: a bounded life, and reports of facts.
 *
 * No signal handlers: SIGALRM at its default disposition ends the actor, and a handler would count as
 * somebody who might end a wait. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Ends the process after the lab's time. alarm(2) is not inherited by fork: call it in each child. */
static inline void lab_bound(void)
{
    const char *seconds = getenv("RUNG_LAB_SECONDS");
    alarm(seconds ? (unsigned)atoi(seconds) : 900);
}

/* Reports `key value` to the stage. One write, so that lines of several threads do not mix. */
static inline void lab_say(const char *key, long value)
{
    const char *path = getenv("RUNG_LAB_REPORT");
    char line[128];
    int length = snprintf(line, sizeof line, "%s %ld\n", key, value);
    int fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : dup(1);
    if (fd < 0 || write(fd, line, (size_t)length) != length) {
        perror("lab_say");
        exit(1);
    }
    close(fd);
}

/* Sleeps by the clock, so the sleeper counts as alive. */
static inline void lab_sleep_us(long us)
{
    struct timespec time = { us / 1000000, us % 1000000 * 1000 };
    nanosleep(&time, NULL);
}

/* Waits until the stage gives the cue. */
static inline void lab_await(const char *cue)
{
    char path[512];
    struct stat found;
    snprintf(path, sizeof path, "%s/%s", getenv("RUNG_LAB_DIR"), cue);
    while (stat(path, &found) != 0)
        lab_sleep_us(2000);
}

static inline void lab_check(int error, const char *what)
{
    if (error) {
        fprintf(stderr, "%s: %s\n", what, strerror(error));
        exit(1);
    }
}

static inline pthread_t lab_thread(void *(*body)(void *), void *arg)
{
    pthread_t thread;
    lab_check(pthread_create(&thread, NULL, body, arg), "pthread_create");
    return thread;
}
