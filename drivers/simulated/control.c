/*
 * What is done to a simulated camera from outside, a word and its numbers at a time. N is a count, 1 by default, `always` without end, 0 to
 * end it; the words of frames are for the next N frames, however they are triggered.
 *
 *   line0                  a pulse on the input Line0
 *   lost | back            unplugs the camera; plugs it in again, to be opened anew
 *   stall MS               the sensor stands still: no frame, and no trigger is heard, for MS
 *   deaf N                 the next N triggers are not heard
 *   drop N                 frames are lost on their way: their numbers are missing
 *   incomplete N           half of the lines come, and the producer says so
 *   short N                half of the lines come, and the producer does not say so
 *   wrongsize N            a frame of half the height comes, as if it were right
 *   noheight N             the height is told as 0
 *   larger N               the producer says that the data did not fit into the buffer
 *   duplicate N            a frame comes twice
 *   late MS N              a frame comes MS late, after later ones if they are faster
 *   badid N                the number of a frame is the complement of what it should be
 *   id N                   the next frame has number N; before the start: the first one has
 *   idbits 16 | 64         numbers of 16 bits: after 65535 comes 1, and the first is 1; or of 64, from 0 (after the next start)
 *   frozen N               the bytes of the frame before once more
 *   dark N | bright N      a sixteenth, or sixteen times, the light
 *   light PERCENT          so much of the light for as long as the camera is open
 *   notime N               frames have no timestamp
 *   clock HZ               timestamps are ticks since opening and there are none in ns; 0: the host's monotonic clock
 *   drift PPM              how much too fast that clock is
 *   noserial N             the serial number is not told before opening; without N: always
 *   nullrevoke N           a revoked buffer is given back as NULL
 *   error CALL N           the next N such calls fail: `open` as denied, the others with an input/output error
 *   hang CALL MS           the next such call takes MS, without MS for ever
 *   crash CALL             the next such call is a segmentation fault
 *
 * CALL is update (the list of devices), open, read, write, start, queue, fetch, stop, revoke or close.
 */
#define _GNU_SOURCE
#include "camera.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static const char *const FAULT_WORDS[FAULTS] = {
    [DROP] = "drop", [INCOMPLETE] = "incomplete", [DUPLICATE] = "duplicate", [BAD_ID] = "badid", [NO_HEIGHT] = "noheight",
    [LARGER] = "larger", [SHORT] = "short", [WRONG_SIZE] = "wrongsize", [FROZEN] = "frozen", [DARK] = "dark", [BRIGHT] = "bright",
    [NO_TIMESTAMP] = "notime", [DEAF] = "deaf", [NULL_REVOKE] = "nullrevoke", [NO_SERIAL] = "noserial", [LATE] = "late",
};
static const char *const CALL_WORDS[CALLS] = {
    [CALL_UPDATE] = "update", [CALL_OPEN] = "open", [CALL_READ] = "read", [CALL_WRITE] = "write", [CALL_START] = "start",
    [CALL_QUEUE] = "queue", [CALL_FETCH] = "fetch", [CALL_STOP] = "stop", [CALL_REVOKE] = "revoke", [CALL_CLOSE] = "close",
};
static const char *const OUTCOME_WORDS[] = {[FAILS] = "error", [HANGS] = "hang", [CRASHES] = "crash"};
enum { ORDER_SIZE = 64, FAULTS_FILE_SIZE = 4096 };

const char *file_name(const struct camera *camera, const char *suffix, char name[64]) {
    snprintf(name, 64, "%s.%s", camera->model->serial, suffix);
    return name;
}

/* A line in the camera's file `happened`, for whoever must know that a fault was not only told but struck. */
static void note(const struct camera *camera, const char *what, const char *more) {
    char name[64];
    int file = openat(camera->directory, file_name(camera, "happened", name), O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
    if (file < 0)
        return;
    dprintf(file, "%s %s\n", what, more);
    close(file);
}

/* ---------------------------------------------------------------- the words */

static int index_of(const char *word, const char *const words[], int count) {
    for (int i = 0; i < count; i++)
        if (words[i] && strcmp(words[i], word) == 0)
            return i;
    return -1;
}

static bool read_number(const char *text, uint64_t fallback, uint64_t *value) {
    char *end;
    *value = fallback;
    if (!*text)
        return true;
    if (strcmp(text, "always") == 0) {
        *value = UINT64_MAX;
        return true;
    }
    errno = 0;
    *value = strtoull(text, &end, 10);
    return errno == 0 && *end == '\0';
}

static void unplug(struct camera *camera) {
    char name[64];
    int file = openat(camera->directory, file_name(camera, "unplugged", name), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    if (file >= 0)
        close(file);
    camera->lost = true; /* until it is opened anew: a camera that comes back has forgotten everything */
}

bool plugged(const struct camera *camera) {
    char name[64];
    return faccessat(camera->directory, file_name(camera, "unplugged", name), F_OK, 0) != 0;
}

/* A word without a number, or a number that stays. */
static bool obey_plain(struct camera *camera, const char *word, const char *text) {
    struct conditions *conditions = &camera->conditions;
    char name[64];
    uint64_t number;
    if (!read_number(text, 0, &number))
        return false;
    if (strcmp(word, "line0") == 0) {
        trigger(camera, SOURCE_LINE0);
    } else if (strcmp(word, "lost") == 0) {
        unplug(camera);
    } else if (strcmp(word, "back") == 0) {
        unlinkat(camera->directory, file_name(camera, "unplugged", name), 0);
    } else if (strcmp(word, "stall") == 0) {
        conditions->stalled_until_ns = now_ns() + smaller((int64_t)number, INT32_MAX) * 1000000;
    } else if (strcmp(word, "id") == 0) {
        camera->next_frame_id = number;
        conditions->first_id_set = !camera->acquiring;
    } else if (strcmp(word, "idbits") == 0 && (number == 16 || number == 64)) {
        conditions->short_ids = number == 16;
    } else if (strcmp(word, "clock") == 0) {
        conditions->clock_hz = number;
    } else if (strcmp(word, "drift") == 0) {
        conditions->drift_ppm = (int64_t)number; /* strtoull takes a sign, too */
    } else if (strcmp(word, "light") == 0 && number <= 100) {
        conditions->light_lost_percent = 100 - number;
    } else {
        return false;
    }
    return true;
}

static bool obey_call(struct camera *camera, int outcome, const char *call_word, const char *text) {
    int call = index_of(call_word, CALL_WORDS, CALLS);
    uint64_t amount;
    if (call < 0 || !read_number(text, outcome == FAILS ? 1 : UINT64_MAX, &amount))
        return false;
    camera->conditions.calls[call].outcome = amount ? (enum outcome)outcome : WORKS;
    camera->conditions.calls[call].amount = amount;
    return true;
}

/* Does one of the words above; false: there is no such word, or not with these numbers. */
bool obey(struct camera *camera, const char *order) {
    char word[16] = "", first[24] = "", second[24] = "", more;
    if (sscanf(order, "%15s %23s %23s %c", word, first, second, &more) > 3)
        return false;
    pthread_cond_broadcast(&camera->changed);
    int outcome = index_of(word, OUTCOME_WORDS, CRASHES + 1), fault = index_of(word, FAULT_WORDS, FAULTS);
    if (outcome >= 0)
        return obey_call(camera, outcome, first, second);
    if (fault == LATE)
        return *first && read_number(first, 0, &camera->conditions.late_ms) && camera->conditions.late_ms <= INT32_MAX &&
               read_number(second, 1, &camera->conditions.faults[LATE]);
    if (*second)
        return false;
    if (fault < 0)
        return obey_plain(camera, word, first);
    return read_number(first, fault == NO_SERIAL ? UINT64_MAX : 1, &camera->conditions.faults[fault]);
}

static void obey_or_complain(struct camera *camera, const char *order) {
    if (!obey(camera, order))
        fprintf(stderr, "%s: not obeyed: %s\n", camera->model->serial, order);
    else if (strcmp(order, "line0") != 0) /* which comes with every part */
        note(camera, "told", order);
}

/* In order again, but for what is usual with this vendor and what the file of faults says. */
void renew_conditions(struct camera *camera) {
    char name[64], text[FAULTS_FILE_SIZE], *rest = text;
    camera->conditions = (struct conditions){0};
    camera->next_frame_id = 0;
    int length = snprintf(text, sizeof text, "%s", camera->profile->conditions);
    int file = openat(camera->directory, file_name(camera, "faults", name), O_RDONLY | O_CLOEXEC);
    ssize_t more = file >= 0 ? read(file, text + length, sizeof text - 1 - (size_t)length) : 0;
    if (file >= 0)
        close(file);
    text[length + larger(more, 0)] = '\0';
    for (char *line; (line = strsep(&rest, "\n"));)
        if (*line)
            obey_or_complain(camera, line);
}

/* ---------------------------------------------------------------- how the faults strike */

bool strikes(struct camera *camera, enum fault fault) {
    uint64_t *left = &camera->conditions.faults[fault];
    if (*left == 0)
        return false;
    if (*left != UINT64_MAX) {
        --*left;
        note(camera, "struck", FAULT_WORDS[fault]);
    }
    return true;
}

static void hang(uint64_t ms) {
    while (ms == UINT64_MAX)
        pause();
    struct timespec left = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000 * 1000000)};
    while (clock_nanosleep(CLOCK_MONOTONIC, 0, &left, &left) == EINTR)
        ;
}

static void crash(void) {
    volatile int *volatile nowhere = NULL;
    *nowhere = 0;
}

/* What every call that can go wrong begins with. */
GC_ERROR enter(struct camera *camera, enum call call) {
    pthread_mutex_lock(&camera->lock);
    enum outcome outcome = camera->conditions.calls[call].outcome;
    uint64_t *amount = &camera->conditions.calls[call].amount, ms = *amount;
    if (outcome == HANGS || outcome == CRASHES || (outcome == FAILS && *amount != UINT64_MAX && --*amount == 0))
        camera->conditions.calls[call].outcome = WORKS;
    if (outcome != WORKS)
        note(camera, OUTCOME_WORDS[outcome], CALL_WORDS[call]);
    pthread_mutex_unlock(&camera->lock);
    if (outcome == CRASHES)
        crash();
    if (outcome == HANGS)
        hang(ms);
    if (outcome != FAILS)
        return GC_ERR_SUCCESS;
    return fail(call == CALL_OPEN ? GC_ERR_ACCESS_DENIED : GC_ERR_IO, "%s: told to fail at %s", camera->model->serial, CALL_WORDS[call]);
}

/* ---------------------------------------------------------------- the socket */

bool listen_for_control(struct camera *camera) {
    char name[64];
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    /* Through the directory's descriptor, for its path may be too long for sun_path. */
    snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/%s", camera->directory, file_name(camera, "sock", name));
    unlinkat(camera->directory, name, 0);
    camera->quit = eventfd(0, EFD_CLOEXEC);
    camera->socket = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    return camera->quit >= 0 && camera->socket >= 0 && bind(camera->socket, (struct sockaddr *)&address, sizeof address) == 0;
}

void *control_for_ever(void *argument) {
    struct camera *camera = argument;
    struct pollfd events[] = {{.fd = camera->socket, .events = POLLIN}, {.fd = camera->quit, .events = POLLIN}};
    while (poll(events, 2, -1) >= 0 && !events[1].revents) {
        char order[ORDER_SIZE] = {0};
        if (recv(camera->socket, order, sizeof order - 1, MSG_DONTWAIT) <= 0)
            continue;
        pthread_mutex_lock(&camera->lock);
        obey_or_complain(camera, order);
        pthread_mutex_unlock(&camera->lock);
    }
    return NULL;
}
