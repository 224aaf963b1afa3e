/* Very many threads, file descriptors or processes, idle.
   many threads COUNT | fds COUNT | processes COUNT PIPES_OF_EACH */
#include "lab.h"
#include <signal.h>
#include <sys/prctl.h>

static void *idles(void *arg)
{
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    static pthread_cond_t never = PTHREAD_COND_INITIALIZER;
    (void)arg;
    pthread_mutex_lock(&mutex);
    for (;;)
        pthread_cond_wait(&never, &mutex);
    return NULL;
}

/* Idle children that end with their parent. */
static int processes(int count, int pipes)
{
    int made = 0, parent = getpid();
    /* Nothing but the standard streams, whatever was inherited. */
    close_range(3, ~0U, 0);
    for (; made < count; made++) {
        pid_t child = fork();
        if (child < 0)
            break;
        if (child == 0) {
            int ends[2];
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (getppid() != parent)
                _exit(1);
            while (pipes-- > 0 && pipe(ends) == 0)
                continue;
            for (;;)
                pause();
        }
    }
    return made;
}

int main(int argc, char **argv)
{
    int count = argc > 2 ? atoi(argv[2]) : 1000;
    int made = 0;
    lab_bound();
    if (argc > 1 && !strcmp(argv[1], "threads")) {
        pthread_attr_t small;
        pthread_t thread;
        pthread_attr_init(&small);
        pthread_attr_setstacksize(&small, 65536);
        pthread_attr_setguardsize(&small, 0);
        while (made < count && pthread_create(&thread, &small, idles, NULL) == 0)
            made++;
    } else if (argc > 3 && !strcmp(argv[1], "processes")) {
        made = processes(count, atoi(argv[3]));
    } else {
        struct rlimit limit = { (rlim_t)count * 2, (rlim_t)count * 2 };
        if (setrlimit(RLIMIT_NOFILE, &limit) != 0) {
            getrlimit(RLIMIT_NOFILE, &limit);
            limit.rlim_cur = limit.rlim_max;
            setrlimit(RLIMIT_NOFILE, &limit);
            /* Half of what is allowed: close to the limit would be a fault of its own. */
            if ((rlim_t)count > limit.rlim_cur / 2)
                count = (int)(limit.rlim_cur / 2);
        }
        while (made < count && dup(0) >= 0)
            made++;
    }
    lab_say("made", made);
    for (;;)
        lab_sleep_us(1000000);
}
