/* Thread pools. pool contend THREADS HOLD_US THINK_US | pile-up THREADS | idle THREADS | leader-exit */
#include "lab.h"

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t work = PTHREAD_COND_INITIALIZER;
static long hold_us, think_us;

static void *contender(void *arg)
{
    (void)arg;
    for (;;) {
        pthread_mutex_lock(&mutex);
        lab_sleep_us(hold_us);
        pthread_mutex_unlock(&mutex);
        if (think_us)
            lab_sleep_us(think_us);
    }
    return NULL;
}

/* Holds the mutex for as long as the reader of its standard output pleases. */
static void *owner(void *arg)
{
    static char block[4096];
    (void)arg;
    pthread_mutex_lock(&mutex);
    lab_say("tid_owner", gettid());
    for (;;)
        if (write(1, block, sizeof block) < 0)
            exit(1);
    return NULL;
}

static void *locks(void *arg)
{
    (void)arg;
    pthread_mutex_lock(&mutex);
    return NULL;
}

static void *waits_for_work(void *arg)
{
    (void)arg;
    pthread_mutex_lock(&mutex);
    for (;;)
        pthread_cond_wait(&work, &mutex);
    return NULL;
}

static void *sleeps(void *arg)
{
    (void)arg;
    for (;;)
        lab_sleep_us(100000);
    return NULL;
}

int main(int argc, char **argv)
{
    const char *kind = argc > 1 ? argv[1] : "idle";
    int threads = argc > 2 ? atoi(argv[2]) : 8;
    pthread_t any = 0;
    lab_bound();
    if (!strcmp(kind, "contend")) {
        hold_us = argc > 3 ? atol(argv[3]) : 5000;
        think_us = argc > 4 ? atol(argv[4]) : 0;
        for (int i = 0; i < threads; i++)
            any = lab_thread(contender, NULL);
    } else if (!strcmp(kind, "pile-up")) {
        any = lab_thread(owner, NULL);
        lab_await("pile");
        for (int i = 0; i < threads; i++)
            lab_thread(locks, NULL);
    } else if (!strcmp(kind, "idle")) {
        for (int i = 0; i < threads; i++)
            lab_thread(waits_for_work, NULL);
        lab_say("ready", threads);
        /* The live thread that could signal: it looks for work every second. */
        for (;;)
            lab_sleep_us(1000000);
    } else if (!strcmp(kind, "leader-exit")) {
        /* SIGALRM goes to any thread, so the bound outlives the leader. */
        lab_thread(sleeps, NULL);
        lab_thread(sleeps, NULL);
        pthread_exit(NULL);
    }
    lab_say("ready", threads);
    pthread_join(any, NULL);
    return 1;
}
