/* Deadlocks of POSIX mutexes, and the healthy ways to contend for them. mutex KIND [NAME] */
#include "lab.h"

static pthread_mutex_t first = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t second = PTHREAD_MUTEX_INITIALIZER;
static pthread_barrier_t both_hold;

/* One half of an ABBA: takes its own lock, waits until the other has its own, asks for the other's. */
struct half {
    const char *key;
    pthread_mutex_t *mine, *theirs;
};
static struct half halves[2] = { { "tid_a", &first, &second }, { "tid_b", &second, &first } };

static void *abba(void *arg)
{
    struct half *half = arg;
    lab_say(half->key, gettid());
    pthread_mutex_lock(half->mine);
    pthread_barrier_wait(&both_hold);
    pthread_mutex_lock(half->theirs);
    return NULL;
}

/* ABBA by threads that give up after 50 ms and start over: slow, but alive. */
static void *timed(void *arg)
{
    struct half *half = arg;
    lab_say(half->key, gettid());
    for (unsigned turn = 0;; turn++) {
        struct timespec end;
        pthread_mutex_lock(half->mine);
        lab_sleep_us(5000);
        clock_gettime(CLOCK_REALTIME, &end);
        end.tv_nsec += 50000000;
        end.tv_sec += end.tv_nsec / 1000000000;
        end.tv_nsec %= 1000000000;
        if (pthread_mutex_timedlock(half->theirs, &end) == 0)
            pthread_mutex_unlock(half->theirs);
        pthread_mutex_unlock(half->mine);
        lab_sleep_us(half == halves ? 20000 : 35000);
    }
    return NULL;
}

/* ABBA by threads that only try the second lock, and back off. */
static void *trylock(void *arg)
{
    struct half *half = arg;
    lab_say(half->key, gettid());
    for (;;) {
        pthread_mutex_lock(half->mine);
        lab_sleep_us(2000);
        if (pthread_mutex_trylock(half->theirs) == 0)
            pthread_mutex_unlock(half->theirs);
        pthread_mutex_unlock(half->mine);
        lab_sleep_us(half == halves ? 10000 : 13000);
    }
    return NULL;
}

static void *clock_watcher(void *arg)
{
    (void)arg;
    lab_say("tid_alive", gettid());
    for (;;)
        lab_sleep_us(100000);
    return NULL;
}

static void *locks_first(void *arg)
{
    (void)arg;
    lab_say("tid_b", gettid());
    pthread_mutex_lock(&first);
    return NULL;
}

static void *locks_and_exits(void *arg)
{
    (void)arg;
    lab_say("tid_dead", gettid());
    pthread_mutex_lock(&first);
    return NULL;
}

static void two_threads(void *(*body)(void *))
{
    pthread_t a = lab_thread(body, &halves[0]);
    pthread_t b = lab_thread(body, &halves[1]);
    pthread_join(a, NULL);
    pthread_join(b, NULL);
}

int main(int argc, char **argv)
{
    const char *kind = argc > 1 ? argv[1] : "abba";
    lab_bound();
    if (argc > 2)
        prctl(PR_SET_NAME, argv[2]);
    pthread_barrier_init(&both_hold, NULL, 2);
    lab_say("tid_main", gettid());
    if (!strcmp(kind, "abba")) {
        two_threads(abba);
    } else if (!strcmp(kind, "abba-alive")) {
        lab_thread(clock_watcher, NULL);
        two_threads(abba);
    } else if (!strcmp(kind, "pi")) {
        pthread_mutexattr_t inherit;
        pthread_mutexattr_init(&inherit);
        pthread_mutexattr_setprotocol(&inherit, PTHREAD_PRIO_INHERIT);
        lab_check(pthread_mutex_init(&first, &inherit), "PI mutex");
        lab_check(pthread_mutex_init(&second, &inherit), "PI mutex");
        two_threads(abba);
    } else if (!strcmp(kind, "self")) {
        pthread_mutex_lock(&first);
        pthread_mutex_lock(&first);
    } else if (!strcmp(kind, "join")) {
        pthread_mutex_lock(&first);
        pthread_join(lab_thread(locks_first, NULL), NULL);
    } else if (!strcmp(kind, "owner-exit")) {
        pthread_join(lab_thread(locks_and_exits, NULL), NULL);
        pthread_mutex_lock(&first);
    } else if (!strcmp(kind, "timed")) {
        two_threads(timed);
    } else if (!strcmp(kind, "trylock")) {
        two_threads(trylock);
    }
    fprintf(stderr, "%s: no such kind, or it did not hang\n", kind);
    return 1;
}
