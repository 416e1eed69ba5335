/* A simulated camera: its clock and triggers, the consumer's buffers, the control socket, the registers; opening and closing. */
#define _GNU_SOURCE
#include "camera.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static const double EXPOSURE_MAX_US = 1e6, FRAME_RATE_MIN = 0.1, TRIGGER_DELAY_MAX_US = 3e6, TEMPERATURE_C = 41.0;
/* Offsets are even, so that a region never shifts the Bayer pattern. */
enum { SIZE_MIN = 16, WIDTH_STEP = 4, HEIGHT_STEP = 2, OFFSET_STEP = 2 };

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* Waits until something changed or the time has come. */
static void wait_until(struct camera *camera, int64_t time_ns) {
    struct timespec time = {.tv_sec = time_ns / 1000000000, .tv_nsec = time_ns % 1000000000};
    pthread_cond_timedwait(&camera->changed, &camera->lock, &time);
}

const char *file_name(const struct camera *camera, const char *suffix, char name[64]) {
    snprintf(name, 64, "%s.%s", camera->model->serial, suffix);
    return name;
}

/* ---------------------------------------------------------------- the consumer's buffers */

void set_state(struct stream *stream, struct buffer *buffer, enum buffer_state state) {
    buffer->state = state;
    buffer->order = ++stream->order;
}

struct buffer *oldest(struct stream *stream, enum buffer_state state) {
    struct buffer *found = NULL;
    for (struct buffer *buffer = stream->buffers; buffer < stream->buffers + BUFFERS_MAX; buffer++)
        if (buffer->state == state && (!found || buffer->order < found->order))
            found = buffer;
    return found;
}

static bool streaming(const struct camera *camera) {
    return camera->acquiring && camera->stream.running && !camera->lost && !camera->closing;
}

/* Hands the finished exposure over. Without a queued buffer it is lost and only its number remains. */
static void deliver(struct camera *camera, const struct plate_key *key, uint32_t noise, int64_t end_ns) {
    struct stream *stream = &camera->stream;
    uint64_t frame_id = camera->next_frame_id++;
    struct buffer *buffer = oldest(stream, QUEUED);
    if (!buffer) {
        stream->underruns++;
        return;
    }
    size_t size = (size_t)(key->region.width * key->region.height);
    set_state(stream, buffer, FILLING);
    stream->started++;
    buffer->incomplete = size > buffer->size;
    if (!buffer->incomplete) {
        pthread_mutex_unlock(&camera->lock);
        read_out(camera, buffer->memory, size, noise);
        pthread_mutex_lock(&camera->lock);
    }
    buffer->new_data = true;
    buffer->frame_id = frame_id;
    buffer->timestamp_ns = (uint64_t)end_ns;
    buffer->format = (uint64_t)key->format;
    buffer->region = key->region;
    set_state(stream, buffer, READY);
    stream->fired++;
    pthread_cond_broadcast(&camera->changed);
}

/* The oldest finished buffer; NULL when none came in time. */
struct buffer *await_buffer(struct camera *camera, uint64_t timeout_ms) {
    const uint64_t longest_ms = INT64_MAX / 4000000;
    int64_t deadline_ns = now_ns() + (int64_t)(timeout_ms < longest_ms ? timeout_ms : longest_ms) * 1000000;
    struct stream *stream = &camera->stream;
    struct buffer *buffer;
    while (!(buffer = oldest(stream, READY)) && !stream->killed && now_ns() < deadline_ns)
        wait_until(camera, deadline_ns);
    return buffer;
}

/* ---------------------------------------------------------------- exposures: the camera's clock */

static int64_t sensor_period_ns(const struct camera *camera) {
    return larger((int64_t)(1e9 / camera->model->frame_rate_max), (int64_t)(camera->registers[EXPOSURE_TIME].f * 1e3));
}

static uint64_t brightness(const struct camera *camera) {
    double factor = camera->registers[EXPOSURE_TIME].f / camera->model->nominal_exposure_us * pow(10.0, camera->registers[GAIN].f / 20.0);
    return (uint64_t)lround(fmin(factor, 256.0) * NOMINAL);
}

static void disarm(struct camera *camera) {
    release_scene(camera->waiting.scene);
    camera->waiting = (struct exposure){0};
}

/* A trigger at this moment. One that comes while the sensor is busy waits for it; a second one that would have to wait is ignored. */
static void trigger(struct camera *camera, int64_t source) {
    struct exposure *waiting = &camera->waiting;
    if (!streaming(camera) || !camera->registers[TRIGGER_MODE].i || camera->registers[TRIGGER_SOURCE].i != source || waiting->armed)
        return;
    int64_t delay_ns = (int64_t)(camera->registers[TRIGGER_DELAY].f * 1e3);
    waiting->armed = true;
    waiting->start_ns = now_ns() + delay_ns;
    if (delay_ns == 0) /* here and not in the exposer, so that whoever triggered may change the scene at once */
        latch(camera, waiting);
    pthread_cond_broadcast(&camera->changed);
}

/* When the next exposure begins; INT64_MAX when a trigger has to come first. */
static int64_t next_start_ns(const struct camera *camera) {
    int64_t period_ns = sensor_period_ns(camera), ready_ns = camera->last_start_ns + period_ns;
    if (camera->registers[TRIGGER_MODE].i)
        return camera->waiting.armed ? larger(camera->waiting.start_ns, ready_ns) : INT64_MAX;
    if (camera->registers[FRAME_RATE_ENABLE].i)
        period_ns = larger(period_ns, (int64_t)(1e9 / camera->registers[FRAME_RATE].f));
    int64_t start_ns = camera->last_start_ns + period_ns, now = now_ns();
    return start_ns < now - period_ns ? now : start_ns; /* a late one is caught up with, a long pause is not */
}

static void expose(struct camera *camera, int64_t start_ns) {
    struct exposure exposure = camera->waiting;
    camera->waiting = (struct exposure){0};
    if (!exposure.latched)
        latch(camera, &exposure);
    const union value *registers = camera->registers;
    struct plate_key key = {
        .scene = exposure.scene ? exposure.scene->number : 0,
        .picture = exposure.picture,
        .region = {registers[OFFSET_X].i, registers[OFFSET_Y].i, registers[WIDTH].i, registers[HEIGHT].i},
        .format = registers[PIXEL_FORMAT].i,
        .brightness = brightness(camera),
    };
    int64_t end_ns = start_ns + (int64_t)(registers[EXPOSURE_TIME].f * 1e3);
    camera->last_start_ns = start_ns;
    pthread_mutex_unlock(&camera->lock);
    render(camera, &key, exposure.scene);
    pthread_mutex_lock(&camera->lock);
    while (streaming(camera) && now_ns() < end_ns)
        wait_until(camera, end_ns);
    if (streaming(camera))
        deliver(camera, &key, exposure.scene ? exposure.scene->noise : 0, end_ns);
    release_scene(exposure.scene);
}

static void *exposer(void *argument) {
    struct camera *camera = argument;
    pthread_mutex_lock(&camera->lock);
    while (!camera->closing) {
        int64_t start_ns = streaming(camera) ? next_start_ns(camera) : INT64_MAX;
        if (start_ns == INT64_MAX) {
            pthread_cond_wait(&camera->changed, &camera->lock);
        } else if (start_ns > now_ns()) {
            wait_until(camera, start_ns);
        } else {
            camera->busy = true;
            expose(camera, start_ns);
            camera->busy = false;
            pthread_cond_broadcast(&camera->changed);
        }
    }
    pthread_mutex_unlock(&camera->lock);
    return NULL;
}

/* After it, no exposure of before is still going on, and no buffer is being written to. */
void settle(struct camera *camera) {
    disarm(camera);
    pthread_cond_broadcast(&camera->changed);
    while (camera->busy)
        pthread_cond_wait(&camera->changed, &camera->lock);
}

/* ---------------------------------------------------------------- control: what is done to the camera from outside */

static void unplug(struct camera *camera) {
    char name[64];
    int file = openat(camera->directory, file_name(camera, "unplugged", name), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    if (file >= 0)
        close(file);
    camera->lost = true; /* until it is opened anew: a camera that comes back has forgotten everything */
    pthread_cond_broadcast(&camera->changed);
}

static void plug(struct camera *camera) {
    char name[64];
    unlinkat(camera->directory, file_name(camera, "unplugged", name), 0);
}

bool plugged(const struct camera *camera) {
    char name[64];
    return faccessat(camera->directory, file_name(camera, "unplugged", name), F_OK, 0) != 0;
}

static void *controller(void *argument) {
    struct camera *camera = argument;
    struct pollfd events[] = {{.fd = camera->socket, .events = POLLIN}, {.fd = camera->quit, .events = POLLIN}};
    while (poll(events, 2, -1) >= 0 && !events[1].revents) {
        char text[16] = {0};
        if (recv(camera->socket, text, sizeof text - 1, MSG_DONTWAIT) <= 0)
            continue;
        pthread_mutex_lock(&camera->lock);
        if (strcmp(text, "line0") == 0)
            trigger(camera, SOURCE_LINE0);
        else if (strcmp(text, "lost") == 0)
            unplug(camera);
        else if (strcmp(text, "back") == 0)
            plug(camera);
        pthread_mutex_unlock(&camera->lock);
    }
    return NULL;
}

static bool listen_for_control(struct camera *camera) {
    char name[64];
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    /* Through the directory's descriptor, for its path may be too long for sun_path. */
    snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/%s", camera->directory, file_name(camera, "sock", name));
    unlinkat(camera->directory, name, 0);
    camera->quit = eventfd(0, EFD_CLOEXEC);
    camera->socket = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    return camera->quit >= 0 && camera->socket >= 0 && bind(camera->socket, (struct sockaddr *)&address, sizeof address) == 0;
}

/* ---------------------------------------------------------------- registers: what the features of camera.xml read and write */

/* The description lies in the producer itself, so that it is found wherever the producer stands. */
__asm__(".section .rodata\n"
        ".hidden camera_xml, camera_xml_end\n"
        ".global camera_xml, camera_xml_end\n"
        "camera_xml:\n"
        ".incbin \"camera.xml\"\n"
        "camera_xml_end:\n"
        ".byte 0\n"
        ".previous\n");
extern const uint8_t camera_xml[] __attribute__((visibility("hidden"))), camera_xml_end[] __attribute__((visibility("hidden")));

size_t description_size(void) { return (size_t)(camera_xml_end - camera_xml); }

static void reset_registers(struct camera *camera) {
    const struct model *model = camera->model;
    union value *registers = camera->registers;
    memset(registers, 0, sizeof camera->registers);
    registers[SENSOR_WIDTH].i = registers[WIDTH].i = model->width;
    registers[SENSOR_HEIGHT].i = registers[HEIGHT].i = model->height;
    registers[PAYLOAD_SIZE].i = model->width * model->height;
    registers[PIXEL_FORMAT].i = PFNC_MONO8;
    registers[BAYER_FORMAT].i = model->bayer_format;
    registers[FRAME_RATE].f = registers[FRAME_RATE_MAX].f = model->frame_rate_max;
    registers[EXPOSURE_TIME].f = model->nominal_exposure_us;
    registers[EXPOSURE_TIME_MIN].f = model->exposure_min_us;
    registers[GAIN_MAX].f = model->gain_max_db;
    registers[DEVICE_TEMPERATURE].f = TEMPERATURE_C;
    memset(camera->strings, 0, sizeof camera->strings);
    snprintf(camera->strings[VENDOR_NAME], STRING_SIZE, "%s", model->vendor);
    snprintf(camera->strings[MODEL_NAME], STRING_SIZE, "%s", model->name);
    snprintf(camera->strings[SERIAL_NUMBER], STRING_SIZE, "%s", model->serial);
}

static GC_ERROR set_integer(struct camera *camera, enum reg reg, int64_t value, int64_t min, int64_t max, int64_t step) {
    if (value < min || value > max || value % step != 0)
        return fail(GC_ERR_INVALID_VALUE, "register %d: %lld is not in %lld..%lld, step %lld", (int)reg, (long long)value, (long long)min,
                    (long long)max, (long long)step);
    camera->registers[reg].i = value;
    return GC_ERR_SUCCESS;
}

/* A region or a format: fixed while acquiring. */
static GC_ERROR set_layout(struct camera *camera, enum reg reg, int64_t value, int64_t min, int64_t max, int64_t step) {
    if (camera->acquiring)
        return fail(GC_ERR_ACCESS_DENIED, "register %d is locked while acquiring", (int)reg);
    return set_integer(camera, reg, value, min, max, step);
}

static GC_ERROR set_float(struct camera *camera, enum reg reg, double value, double min, double max) {
    if (!(value >= min && value <= max))
        return fail(GC_ERR_INVALID_VALUE, "register %d: %g is not in %g..%g", (int)reg, value, min, max);
    camera->registers[reg].f = value;
    return GC_ERR_SUCCESS;
}

static GC_ERROR set_trigger(struct camera *camera, enum reg reg, int64_t value) {
    GC_ERROR error = set_integer(camera, reg, value, 0, 1, 1);
    if (!error)
        disarm(camera);
    return error;
}

static GC_ERROR acquire(struct camera *camera, bool start) {
    if (start && !camera->acquiring) {
        camera->next_frame_id = 0;
        camera->last_start_ns = 0;
    }
    camera->acquiring = start;
    if (!start)
        settle(camera);
    return GC_ERR_SUCCESS;
}

static GC_ERROR write_register(struct camera *camera, enum reg reg, union value value) {
    const struct model *model = camera->model;
    const union value *registers = camera->registers;
    switch (reg) {
    case WIDTH: return set_layout(camera, reg, value.i, SIZE_MIN, model->width - registers[OFFSET_X].i, WIDTH_STEP);
    case HEIGHT: return set_layout(camera, reg, value.i, SIZE_MIN, model->height - registers[OFFSET_Y].i, HEIGHT_STEP);
    case OFFSET_X: return set_layout(camera, reg, value.i, 0, model->width - registers[WIDTH].i, OFFSET_STEP);
    case OFFSET_Y: return set_layout(camera, reg, value.i, 0, model->height - registers[HEIGHT].i, OFFSET_STEP);
    case PIXEL_FORMAT:
        if (value.i != PFNC_MONO8 && value.i != model->bayer_format)
            return fail(GC_ERR_INVALID_VALUE, "%s has no pixel format 0x%08llX", model->name, (unsigned long long)value.i);
        return set_layout(camera, reg, value.i, value.i, value.i, 1);
    case ACQUISITION_START: return acquire(camera, true);
    case ACQUISITION_STOP: return acquire(camera, false);
    case FRAME_RATE_ENABLE: return set_integer(camera, reg, value.i, 0, 1, 1);
    case FRAME_RATE: return set_float(camera, reg, value.f, FRAME_RATE_MIN, model->frame_rate_max);
    case EXPOSURE_TIME: return set_float(camera, reg, value.f, model->exposure_min_us, EXPOSURE_MAX_US);
    case GAIN: return set_float(camera, reg, value.f, 0.0, model->gain_max_db);
    case TRIGGER_MODE:
    case TRIGGER_SOURCE:
    case TRIGGER_ACTIVATION: return set_trigger(camera, reg, value.i);
    case TRIGGER_DELAY: return set_float(camera, reg, value.f, 0.0, TRIGGER_DELAY_MAX_US);
    case TRIGGER_SOFTWARE: trigger(camera, SOURCE_SOFTWARE); return GC_ERR_SUCCESS;
    default: return fail(GC_ERR_ACCESS_DENIED, "register %d is read only", (int)reg);
    }
}

GC_ERROR write_port(struct camera *camera, uint64_t address, const void *data, size_t size) {
    const uint64_t user_id = STRING_BASE + USER_ID * STRING_SIZE;
    if (address == user_id && size <= STRING_SIZE) {
        memset(camera->strings[USER_ID], 0, STRING_SIZE);
        memcpy(camera->strings[USER_ID], data, size < STRING_SIZE ? size : STRING_SIZE - 1);
        return GC_ERR_SUCCESS;
    }
    uint64_t index = (address - REGISTER_BASE) / sizeof(union value);
    if (address < REGISTER_BASE || address % sizeof(union value) || index >= REGISTERS || size != sizeof(union value))
        return fail(GC_ERR_INVALID_ADDRESS, "nothing to write at 0x%llx, %zu bytes", (unsigned long long)address, size);
    union value value;
    memcpy(&value, data, sizeof value);
    GC_ERROR error = write_register(camera, (enum reg)index, value);
    camera->registers[PAYLOAD_SIZE].i = camera->registers[WIDTH].i * camera->registers[HEIGHT].i;
    pthread_cond_broadcast(&camera->changed);
    return error;
}

GC_ERROR read_port(struct camera *camera, uint64_t address, void *data, size_t size) {
    const struct {
        uint64_t base;
        const void *memory;
        size_t size;
    } areas[] = {
        {REGISTER_BASE, camera->registers, sizeof camera->registers},
        {STRING_BASE, camera->strings, sizeof camera->strings},
        {XML_BASE, camera_xml, description_size()},
    };
    for (size_t i = 0; i < sizeof areas / sizeof areas[0]; i++)
        if (address >= areas[i].base && address - areas[i].base <= areas[i].size && size <= areas[i].size - (address - areas[i].base)) {
            memcpy(data, (const uint8_t *)areas[i].memory + (address - areas[i].base), size);
            return GC_ERR_SUCCESS;
        }
    return fail(GC_ERR_INVALID_ADDRESS, "nothing to read at 0x%llx, %zu bytes", (unsigned long long)address, size);
}

/* ---------------------------------------------------------------- opening and closing */

void prepare_camera(struct camera *camera, const struct model *model, int directory) {
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    *camera = (struct camera){.model = model, .directory = directory, .lock_file = -1, .socket = -1, .quit = -1, .random = 1};
    pthread_mutex_init(&camera->lock, NULL);
    pthread_cond_init(&camera->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

void forget_camera(struct camera *camera) {
    if (camera->open)
        close_camera(camera);
    pthread_mutex_destroy(&camera->lock);
    pthread_cond_destroy(&camera->changed);
}

static bool take_lock(struct camera *camera, int operation) {
    char name[64];
    camera->lock_file = openat(camera->directory, file_name(camera, "lock", name), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    for (int attempt = 0; camera->lock_file >= 0 && attempt < 5; attempt++) {
        if (flock(camera->lock_file, operation | LOCK_NB) == 0)
            return true;
        usleep(1000); /* another process may just be looking at the access status, for a moment */
    }
    return false;
}

static void close_file(int *file) {
    if (*file >= 0)
        close(*file);
    *file = -1;
}

/* Signals are for the consumer's threads: Python acts on them only in its main thread. */
static bool start_threads(struct camera *camera) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool started = pthread_create(&camera->exposer, NULL, exposer, camera) == 0;
    if (started && pthread_create(&camera->controller, NULL, controller, camera) != 0) {
        pthread_mutex_lock(&camera->lock);
        camera->closing = true;
        pthread_cond_broadcast(&camera->changed);
        pthread_mutex_unlock(&camera->lock);
        pthread_join(camera->exposer, NULL);
        started = false;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return started;
}

static void release_camera(struct camera *camera) {
    close_file(&camera->socket);
    close_file(&camera->quit);
    close_file(&camera->lock_file);
    disarm(camera);
    release_scene(camera->scene);
    camera->scene = NULL;
    free(camera->plate);
    camera->plate = NULL;
    camera->open = false;
}

GC_ERROR open_camera(struct camera *camera) {
    if (camera->open)
        return fail(GC_ERR_RESOURCE_IN_USE, "%s is already open in this process", camera->model->serial);
    if (!take_lock(camera, LOCK_EX)) {
        close_file(&camera->lock_file);
        return fail(GC_ERR_ACCESS_DENIED, "%s is open in another process", camera->model->serial);
    }
    reset_registers(camera);
    camera->lost = camera->acquiring = camera->closing = camera->busy = false;
    camera->plate_key = (struct plate_key){0};
    camera->plate = malloc((size_t)(camera->model->width * camera->model->height));
    if (!camera->plate || !listen_for_control(camera) || !start_threads(camera)) {
        GC_ERROR error = fail(GC_ERR_IO, "%s cannot be opened: %s", camera->model->serial, strerror(errno));
        release_camera(camera);
        return error;
    }
    camera->open = true;
    return GC_ERR_SUCCESS;
}

void close_stream(struct camera *camera) {
    pthread_mutex_lock(&camera->lock);
    camera->stream.running = false;
    settle(camera);
    memset(&camera->stream, 0, sizeof camera->stream);
    pthread_mutex_unlock(&camera->lock);
}

void close_camera(struct camera *camera) {
    char name[64];
    close_stream(camera);
    pthread_mutex_lock(&camera->lock);
    camera->closing = true;
    pthread_cond_broadcast(&camera->changed);
    pthread_mutex_unlock(&camera->lock);
    eventfd_write(camera->quit, 1);
    pthread_join(camera->exposer, NULL);
    pthread_join(camera->controller, NULL);
    unlinkat(camera->directory, file_name(camera, "sock", name), 0);
    release_camera(camera);
}

int32_t access_status(struct camera *camera) {
    if (camera->open)
        return camera->lost ? ACCESS_NOACCESS : ACCESS_OPEN_READWRITE;
    if (!plugged(camera))
        return ACCESS_NOACCESS;
    bool idle = take_lock(camera, LOCK_SH);
    close_file(&camera->lock_file);
    return idle ? ACCESS_READWRITE : ACCESS_BUSY;
}

