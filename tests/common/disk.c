// A disk with blocks that can't be read: reads of a file fail as long as its folder has a file UNREADABLE.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int is_unreadable(int file) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - sizeof "UNREADABLE");
    if (length <= 0)
        return 0;
    path[length] = 0;
    char *slash = strrchr(path, '/');
    if (!slash)
        return 0;
    strcpy(slash + 1, "UNREADABLE");
    return access(path, F_OK) == 0;
}

// Whoever is compiled with large files asks for the other name.
ssize_t pread(int file, void *into, size_t bytes, off_t from) {
    static ssize_t (*real)(int, void *, size_t, off_t);
    if (is_unreadable(file)) {
        errno = EIO;
        return -1;
    }
    if (!real)
        real = (ssize_t (*)(int, void *, size_t, off_t))dlsym(RTLD_NEXT, "pread");
    return real(file, into, bytes, from);
}

ssize_t pread64(int file, void *into, size_t bytes, off64_t from) { return pread(file, into, bytes, from); }
