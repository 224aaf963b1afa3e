/* What grows, and what only looks as if it did.
   grow threads A_SECOND MOST | pool THREADS A_SECOND | fds KIND A_SECOND MOST LIMIT | pool-fds COUNT A_SECOND
   | churn-fds A_SECOND | heap MB_A_SECOND MOST_MB [RLIMIT_DATA_MB]
   | hold MB MB_A_SECOND | file MB_A_SECOND MOST_MB
   The last number is a cap: what grows by a fault goes on until there or until it fails. */
#include "lab.h"
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t never = PTHREAD_COND_INITIALIZER;

static void *waits(void *arg)
{
    (void)arg;
    pthread_mutex_lock(&mutex);
    for (;;)
        pthread_cond_wait(&never, &mutex);
    return NULL;
}

static void *sleeps(void *arg)
{
    (void)arg;
    for (;;)
        lab_sleep_us(1000000);
    return NULL;
}

static void idle(void)
{
    for (;;)
        lab_sleep_us(100000);
}

/* Keeps to a pace whatever else the machine does: sleeps until step number `step` is due. */
static void pace(struct timespec *begin, long step, long a_second)
{
    struct timespec due = *begin;
    if (step == 0) {
        clock_gettime(CLOCK_MONOTONIC, begin);
        return;
    }
    due.tv_sec += step / a_second;
    due.tv_nsec += step % a_second * (1000000000 / a_second);
    if (due.tv_nsec >= 1000000000) {
        due.tv_sec++;
        due.tv_nsec -= 1000000000;
    }
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL);
}

static void threads(long a_second, long most, void *(*body)(void *))
{
    struct timespec begin;
    pthread_attr_t small;
    pthread_t thread;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 65536);
    for (long made = 0; made < most; made++) {
        pace(&begin, made, a_second);
        if (pthread_create(&thread, &small, body, NULL) != 0)
            break;
    }
}

static int opens(const char *kind)
{
    int ends[2];
    if (!strcmp(kind, "socket"))
        return socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (!strcmp(kind, "pipe")) {
        if (pipe(ends) != 0)
            return -1;
        /* One descriptor a step: the other end is let go. */
        close(ends[1]);
        return ends[0];
    }
    if (!strcmp(kind, "event"))
        return eventfd(0, EFD_CLOEXEC);
    return open("/proc/self/status", O_RDONLY | O_CLOEXEC);
}

static void descriptors(const char *kind, long a_second, long most)
{
    struct timespec begin;
    for (long made = 0; made < most; made++) {
        pace(&begin, made, a_second);
        if (opens(kind) < 0)
            break;
    }
}

static void churn(long a_second)
{
    struct timespec begin;
    int fds[64];
    for (long step = 0;; step++) {
        pace(&begin, step, a_second);
        if (step >= 64)
            close(fds[step % 64]);
        fds[step % 64] = opens("file");
    }
}

/* Touches a tenth of a MB at a time. */
static void heap(long mb_a_second, long most_mb)
{
    const size_t piece = 1 << 20;
    struct timespec begin;
    for (long step = 0; step < most_mb * 10; step++) {
        static char *memory;
        pace(&begin, step, mb_a_second * 10);
        if (step % 10 == 0) {
            memory = mmap(NULL, piece, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (memory == MAP_FAILED)
                exit(1);
        }
        memset(memory + piece / 10 * (size_t)(step % 10), 1, piece / 10 + 10 * (step % 10 == 9));
        if (step % (mb_a_second * 10) == 0)
            lab_say("second", step / (mb_a_second * 10));
    }
    lab_say("capped", most_mb);
}

/* Writes a file and reads it through a mapping: page cache, and resident memory of the process that is not its own. */
static void file(long mb_a_second, long most_mb)
{
    const size_t piece = 1 << 20;
    char path[512];
    struct timespec begin;
    long sum = 0;
    snprintf(path, sizeof path, "%s/cache", getenv("RUNG_LAB_DIR"));
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    unlink(path);
    if (fd < 0 || ftruncate(fd, most_mb * (off_t)piece) != 0)
        exit(1);
    char *memory = mmap(NULL, (size_t)most_mb * piece, PROT_READ, MAP_SHARED, fd, 0);
    static char block[1 << 20];
    memset(block, 1, sizeof block);
    for (long mb = 0; mb < most_mb; mb++) {
        pace(&begin, mb, mb_a_second);
        if (pwrite(fd, block, piece, mb * (off_t)piece) != (ssize_t)piece)
            exit(1);
        for (size_t at = 0; at < piece; at += 4096)
            sum += memory[(size_t)mb * piece + at];
        if (mb == mb_a_second)
            lab_say("cached", mb + (sum == 0));
    }
}

int main(int argc, char **argv)
{
    const char *kind = argc > 1 ? argv[1] : "";
    long one = argc > 2 ? atol(argv[2]) : 10, two = argc > 3 ? atol(argv[3]) : 100;
    lab_bound();
    if (!strcmp(kind, "threads")) {
        lab_say("ready", 1);
        threads(one, two, sleeps);
    } else if (!strcmp(kind, "pool")) {
        lab_say("ready", 1);
        threads(two, one, waits);
        lab_say("complete", one);
    } else if (!strcmp(kind, "fds") && argc > 5) {
        struct rlimit limit = { (rlim_t)atol(argv[5]), (rlim_t)atol(argv[5]) };
        lab_check(setrlimit(RLIMIT_NOFILE, &limit) != 0 ? errno : 0, "setrlimit");
        lab_say("ready", 1);
        /* From here on a report may want a descriptor that there is none of. */
        descriptors(argv[2], two, atol(argv[4]));
    } else if (!strcmp(kind, "pool-fds")) {
        lab_say("ready", 1);
        descriptors("socket", two, one);
        lab_say("complete", one);
    } else if (!strcmp(kind, "churn-fds")) {
        lab_say("ready", 1);
        churn(one);
    } else if (!strcmp(kind, "heap")) {
        if (argc > 4) {
            struct rlimit limit = { (rlim_t)atol(argv[4]) << 20, (rlim_t)atol(argv[4]) << 20 };
            lab_check(setrlimit(RLIMIT_DATA, &limit) != 0 ? errno : 0, "setrlimit");
        }
        lab_await("go");
        heap(one, two);
    } else if (!strcmp(kind, "file")) {
        lab_await("go");
        file(one, two);
    } else if (!strcmp(kind, "hold")) {
        /* A heap of a fixed size from the start. */
        lab_await("hold");
        heap(two, one);
    } else {
        return 1;
    }
    idle();
}
