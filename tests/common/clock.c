// A computer's clock for one process, which its test sets: the seconds in the file CALLSIEVE_TEST_CLOCK are added to the true time. As when the kernel's is
// set, who waits until a time of that clock waits longer when it is set back, and clocks that only go forward stay as they are.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

#define NANOS 1000000000LL
// How late a wait learns that the clock was set.
#define LOOK_EVERY (10 * 1000000LL)

static const int64_t none = 0;
static volatile const int64_t *offset = &none;

__attribute__((constructor)) static void begin(void) {
    const char *name = getenv("CALLSIEVE_TEST_CLOCK");
    int file = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    void *mapped = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
    if (mapped == MAP_FAILED)
        abort();
    offset = mapped;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += *offset;
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (now)
        *now = exact.tv_sec;
    return exact.tv_sec;
}

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex, const struct timespec *restrict until) {
    for (;;) {
        struct timespec now, next;
        clock_gettime(CLOCK_REALTIME, &now);
        int64_t left = (until->tv_sec - now.tv_sec) * NANOS + until->tv_nsec - now.tv_nsec;
        if (left <= 0)
            return ETIMEDOUT;
        clock_gettime(CLOCK_MONOTONIC, &next);
        next.tv_nsec += left < LOOK_EVERY ? left : LOOK_EVERY;
        next.tv_sec += next.tv_nsec / NANOS;
        next.tv_nsec %= NANOS;
        int code = pthread_cond_clockwait(condition, mutex, CLOCK_MONOTONIC, &next);
        if (code != ETIMEDOUT)
            return code;
    }
}

// The C library has both in one form, and doesn't call the one from the other.
int cnd_timedwait(cnd_t *restrict condition, mtx_t *restrict mutex, const struct timespec *restrict until) {
    int code = pthread_cond_timedwait((pthread_cond_t *)condition, (pthread_mutex_t *)mutex, until);
    return code == 0 ? thrd_success : code == ETIMEDOUT ? thrd_timedout : thrd_error;
}
