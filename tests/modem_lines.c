/* Gives pseudo terminals the modem lines of a real port: preloaded, it keeps DTR and RTS of each port that a process opens and writes
   every change into the file MODEM_LINES_DIR/<number of the port>, as records of time (CLOCK_MONOTONIC, ns), lines (TIOCM bits) and process.

   As the kernel does it raises both at open unless the rate is 0, and drops both at close if HUPCL is set. A process that is killed
   drops them too: the file is locked while the port is open, and who finds it unlocked takes the lines for down. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define FILES 1024
#define BOTH (TIOCM_DTR | TIOCM_RTS)

struct record {
    int64_t ns;
    int32_t lines, process;
};

static int logs[FILES]; /* of a port's file: its log's file + 1 */
static int lines[FILES];

static void stand(int file, int now)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    struct record record = {time.tv_sec * 1000000000LL + time.tv_nsec, now, getpid()};
    lines[file] = now;
    if (write(logs[file] - 1, &record, sizeof record) != sizeof record)
        abort();
}

static int opened(int file)
{
    char port[64], path[4096];
    struct termios settings;
    const char *directory = getenv("MODEM_LINES_DIR");
    if (file < 0 || file >= FILES || !directory || ttyname_r(file, port, sizeof port) || strncmp(port, "/dev/pts/", 9))
        return file;
    snprintf(path, sizeof path, "%s/%s", directory, port + 9);
    int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, "open");
    int log = real(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log < 0)
        abort();
    flock(log, LOCK_SH);
    logs[file] = log + 1;
    lines[file] = 0;
    if (!tcgetattr(file, &settings) && cfgetospeed(&settings) != B0)
        stand(file, BOTH);
    return file;
}

#define OPEN(name)                                                   \
    int name(const char *path, int flags, ...)                       \
    {                                                                \
        va_list more;                                                \
        va_start(more, flags);                                       \
        int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, int) : 0; \
        va_end(more);                                                \
        int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, #name); \
        return opened(real(path, flags, mode));                      \
    }
OPEN(open)
OPEN(open64)

int close(int file)
{
    struct termios settings;
    if (file >= 0 && file < FILES && logs[file]) {
        if (!tcgetattr(file, &settings) && settings.c_cflag & HUPCL)
            stand(file, 0);
        int log = logs[file] - 1;
        logs[file] = 0;
        close(log);
    }
    int (*real)(int) = dlsym(RTLD_NEXT, "close");
    return real(file);
}

int ioctl(int file, unsigned long request, ...)
{
    va_list more;
    va_start(more, request);
    void *argument = va_arg(more, void *);
    va_end(more);
    int (*real)(int, unsigned long, ...) = dlsym(RTLD_NEXT, "ioctl");
    int waiting, *bits = argument;
    if (file < 0 || file >= FILES || !logs[file] || (request != TIOCMGET && request != TIOCMBIS && request != TIOCMBIC && request != TIOCMSET))
        return real(file, request, argument);
    if (real(file, TIOCOUTQ, &waiting)) /* the port is gone */
        return -1;
    if (request == TIOCMGET)
        *bits = lines[file];
    else
        stand(file, BOTH & (request == TIOCMBIS ? lines[file] | *bits : request == TIOCMBIC ? lines[file] & ~*bits : *bits));
    return 0;
}
