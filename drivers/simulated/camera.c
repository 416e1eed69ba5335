/* A simulated camera: the registers that its features read and write; opening and closing. */
#define _GNU_SOURCE
#include "camera.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <unistd.h>

static const double EXPOSURE_MAX_US = 1e6, FRAME_RATE_MIN = 0.1, TRIGGER_DELAY_MAX_US = 3e6, TRIGGER_FILTER_MAX_US = 5e3, TEMPERATURE_C = 41.0;
/* Offsets are even, so that a region never shifts the Bayer pattern. */
enum { SIZE_MIN = 16, WIDTH_STEP = 4, HEIGHT_STEP = 2, OFFSET_STEP = 2 };

/* ---------------------------------------------------------------- registers */

/* What follows from the others. */
static void derive_registers(struct camera *camera) {
    union value *registers = camera->registers;
    size_t picture = bytes_of(format_of(registers[PIXEL_FORMAT].i), registers[WIDTH].i * registers[HEIGHT].i);
    registers[PAYLOAD_SIZE].i = (int64_t)(picture + chunk_bytes(camera));
    double rate = fmin(camera->model->frame_rate_max, 1e6 / registers[EXPOSURE_TIME].f);
    registers[CURRENT_FRAME_RATE].f = registers[FRAME_RATE_ENABLE].i ? fmin(rate, registers[FRAME_RATE].f) : rate;
}

static void reset_registers(struct camera *camera) {
    static const int64_t STREAM_DEFAULTS[STREAM_SETTINGS] = {500, 1, 2 << 20, 16};
    const struct model *model = camera->model;
    union value *registers = camera->registers;
    memcpy(camera->stream_settings, STREAM_DEFAULTS, sizeof STREAM_DEFAULTS);
    memset(registers, 0, sizeof camera->registers);
    registers[SENSOR_WIDTH].i = registers[WIDTH].i = model->width;
    registers[SENSOR_HEIGHT].i = registers[HEIGHT].i = model->height;
    registers[PIXEL_FORMAT].i = format_at(0)->value;
    registers[FRAME_RATE_ENABLE].i = camera->profile->always_paced;
    registers[FRAME_RATE].f = registers[FRAME_RATE_MAX].f = model->frame_rate_max;
    registers[EXPOSURE_TIME].f = model->nominal_exposure_us;
    registers[EXPOSURE_TIME_MIN].f = model->exposure_min_us;
    registers[GAIN_MAX].f = model->gain_max_db;
    registers[DEVICE_TEMPERATURE].f = TEMPERATURE_C;
    registers[TRIGGER_SWITCH].i = 1;
    registers[EXPECTED_GRAY].i = 120;
    registers[AUTO_EXPOSURE_MIN].f = model->exposure_min_us;
    registers[AUTO_EXPOSURE_MAX].f = EXPOSURE_MAX_US;
    derive_registers(camera);
}

static void name_camera(struct camera *camera) {
    const struct model *model = camera->model;
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
        if (!camera->conditions.first_id_set)
            camera->next_frame_id = camera->conditions.short_ids;
        camera->conditions.first_id_set = false;
        camera->last_start_ns = 0;
    }
    camera->acquiring = start;
    if (!start)
        settle(camera);
    return GC_ERR_SUCCESS;
}

/* The one set there is: the values after power-on. */
static GC_ERROR load_user_set(struct camera *camera) {
    if (camera->acquiring)
        return fail(GC_ERR_ACCESS_DENIED, "a user set cannot be loaded while acquiring");
    disarm(camera);
    reset_registers(camera);
    return GC_ERR_SUCCESS;
}

static GC_ERROR set_format(struct camera *camera, int64_t value) {
    const struct format *format = format_of(value);
    if (!format || !offers(camera, format))
        return fail(GC_ERR_INVALID_VALUE, "%s has no pixel format 0x%08llX", camera->model->name, (unsigned long long)value);
    return set_layout(camera, PIXEL_FORMAT, value, value, value, 1);
}

static GC_ERROR write_register(struct camera *camera, enum reg reg, union value value) {
    const struct model *model = camera->model;
    const union value *registers = camera->registers;
    switch (reg) {
    case WIDTH: return set_layout(camera, reg, value.i, SIZE_MIN, model->width - registers[OFFSET_X].i, WIDTH_STEP);
    case HEIGHT: return set_layout(camera, reg, value.i, SIZE_MIN, model->height - registers[OFFSET_Y].i, HEIGHT_STEP);
    case OFFSET_X: return set_layout(camera, reg, value.i, 0, model->width - registers[WIDTH].i, OFFSET_STEP);
    case OFFSET_Y: return set_layout(camera, reg, value.i, 0, model->height - registers[HEIGHT].i, OFFSET_STEP);
    case PIXEL_FORMAT: return set_format(camera, value.i);
    case ACQUISITION_START: return acquire(camera, true);
    case ACQUISITION_STOP: return acquire(camera, false);
    case CHUNK_MODE: return set_layout(camera, reg, value.i, 0, 1, 1);
    case FRAME_RATE_ENABLE:
    case TRIGGER_SWITCH:
    case AWB_LAMP_HOUSE: return set_integer(camera, reg, value.i, 0, 1, 1);
    case FRAME_RATE: return set_float(camera, reg, value.f, FRAME_RATE_MIN, model->frame_rate_max);
    case EXPOSURE_TIME:
    case AUTO_EXPOSURE_MIN:
    case AUTO_EXPOSURE_MAX: return set_float(camera, reg, value.f, model->exposure_min_us, EXPOSURE_MAX_US);
    case GAIN: return set_float(camera, reg, value.f, 0.0, model->gain_max_db);
    case TRIGGER_MODE:
    case TRIGGER_SOURCE:
    case TRIGGER_ACTIVATION: return set_trigger(camera, reg, value.i);
    case TRIGGER_DELAY: return set_float(camera, reg, value.f, 0.0, TRIGGER_DELAY_MAX_US);
    case TRIGGER_FILTER_RISING:
    case TRIGGER_FILTER_FALLING: return set_float(camera, reg, value.f, 0.0, TRIGGER_FILTER_MAX_US);
    case TRIGGER_SOFTWARE: trigger(camera, SOURCE_SOFTWARE); return GC_ERR_SUCCESS;
    case USER_SET_LOAD: return load_user_set(camera);
    case EXPECTED_GRAY: return set_integer(camera, reg, value.i, 0, UINT8_MAX, 1);
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
    derive_registers(camera);
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
    free(camera->description);
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
    bool started = pthread_create(&camera->exposer, NULL, expose_for_ever, camera) == 0;
    if (started && pthread_create(&camera->controller, NULL, control_for_ever, camera) != 0) {
        camera->closing = true;
        pthread_mutex_unlock(&camera->lock); /* the exposer has not had it yet, and waits for nothing else */
        pthread_join(camera->exposer, NULL);
        pthread_mutex_lock(&camera->lock);
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

static GC_ERROR locked_open(struct camera *camera) {
    if (!take_lock(camera, LOCK_EX)) {
        close_file(&camera->lock_file);
        return fail(GC_ERR_ACCESS_DENIED, "%s is open in another process", camera->model->serial);
    }
    reset_registers(camera);
    name_camera(camera);
    camera->lost = camera->acquiring = camera->closing = camera->busy = false;
    camera->opened_ns = now_ns();
    camera->plate_key = (struct plate_key){0};
    camera->plate = malloc((size_t)(camera->model->width * camera->model->height) * (camera->all_formats ? 3 : 1));
    if (!camera->plate || !listen_for_control(camera) || !start_threads(camera)) {
        GC_ERROR error = fail(GC_ERR_IO, "%s cannot be opened: %s", camera->model->serial, strerror(errno));
        release_camera(camera);
        return error;
    }
    camera->open = true;
    return GC_ERR_SUCCESS;
}

GC_ERROR open_camera(struct camera *camera) {
    pthread_mutex_lock(&camera->lock);
    bool free_here = !camera->open;
    camera->acquiring &= !free_here;
    if (free_here)
        renew_conditions(camera);
    pthread_mutex_unlock(&camera->lock);
    if (!free_here)
        return fail(GC_ERR_RESOURCE_IN_USE, "%s is already open in this process", camera->model->serial);
    GC_ERROR error = enter(camera, CALL_OPEN);
    if (error)
        return error;
    pthread_mutex_lock(&camera->lock);
    error = locked_open(camera);
    pthread_mutex_unlock(&camera->lock);
    return error;
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

