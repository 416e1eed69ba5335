/* The clock and the triggers of a simulated camera, and the consumer's buffers that its frames go to. */
#define _GNU_SOURCE
#include "producer.h"

#include <endian.h>
#include <math.h>
#include <string.h>
#include <time.h>

int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* Waits until something changed or the time has come. */
static void wait_until(struct camera *camera, int64_t time_ns) {
    struct timespec time = {.tv_sec = time_ns / 1000000000, .tv_nsec = time_ns % 1000000000};
    pthread_cond_timedwait(&camera->changed, &camera->lock, &time);
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

/* The oldest finished buffer that has arrived; NULL, and when the next one will, when there is none. */
static struct buffer *arrived(struct stream *stream, int64_t *next_ns) {
    struct buffer *found = NULL;
    int64_t now = now_ns();
    for (struct buffer *buffer = stream->buffers; buffer < stream->buffers + BUFFERS_MAX; buffer++) {
        if (buffer->state != READY)
            continue;
        if (buffer->arrives_ns > now)
            *next_ns = smaller(*next_ns, buffer->arrives_ns);
        else if (!found || buffer->order < found->order)
            found = buffer;
    }
    return found;
}

/* The oldest finished buffer; NULL when none came in time. */
struct buffer *await_buffer(struct camera *camera, uint64_t timeout_ms) {
    const uint64_t longest_ms = INT64_MAX / 4000000;
    int64_t deadline_ns = now_ns() + (int64_t)(timeout_ms < longest_ms ? timeout_ms : longest_ms) * 1000000;
    for (;;) {
        int64_t next_ns = deadline_ns;
        struct buffer *buffer = arrived(&camera->stream, &next_ns);
        if (buffer || camera->stream.killed || now_ns() >= deadline_ns)
            return buffer;
        wait_until(camera, next_ns);
    }
}

static bool streaming(const struct camera *camera) {
    return camera->acquiring && camera->stream.running && !camera->lost && !camera->closing;
}

/* ---------------------------------------------------------------- what is sent of a finished exposure */

static uint64_t take_frame_id(struct camera *camera) {
    uint64_t id = camera->next_frame_id++;
    if (camera->conditions.short_ids) {
        id &= UINT16_MAX;
        camera->next_frame_id = id == UINT16_MAX ? 1 : id + 1;
    }
    if (!strikes(camera, BAD_ID))
        return id;
    return camera->conditions.short_ids ? ~id & UINT16_MAX : ~id;
}

static uint64_t timestamp(const struct camera *camera, int64_t time_ns) {
    const struct conditions *conditions = &camera->conditions;
    if (conditions->clock_hz == 0)
        return (uint64_t)time_ns;
    double s = (double)(time_ns - camera->opened_ns) * 1e-9 * (1.0 + (double)conditions->drift_ppm * 1e-6);
    return (uint64_t)(s * (double)conditions->clock_hz);
}

/* One frame on its way into a buffer. */
struct sending {
    const struct plate_key *key;
    uint32_t noise;
    uint64_t frame_id;
    int64_t end_ns;
    double exposure_us, gain_db;
    bool again; /* the very bytes of the frame before */
};

/* ---------------------------------------------------------------- chunk data: behind each chunk stand its number and its length */

enum { PICTURE_CHUNK = 0xE000, EXPOSURE_CHUNK, GAIN_CHUNK, TAIL = 2 * sizeof(uint32_t) };

size_t chunk_bytes(const struct camera *camera) {
    return camera->registers[CHUNK_MODE].i ? TAIL + 2 * (sizeof(double) + TAIL) : 0;
}

/* GigE Vision counts from the high byte, USB3 Vision from the low one. */
static uint8_t *end_chunk(const struct camera *camera, uint8_t *end, uint32_t number, size_t length) {
    bool high_first = strcmp(transport_of(camera), "GEV") == 0;
    uint32_t tail[2] = {high_first ? htobe32(number) : htole32(number), high_first ? htobe32((uint32_t)length) : htole32((uint32_t)length)};
    memcpy(end, tail, TAIL);
    return end + TAIL;
}

static void add_chunks(const struct camera *camera, struct buffer *buffer, const struct sending *sending) {
    size_t picture = buffer->filled - chunk_bytes(camera);
    uint8_t *end = end_chunk(camera, buffer->memory + picture, PICTURE_CHUNK, picture);
    memcpy(end, &sending->exposure_us, sizeof(double));
    end = end_chunk(camera, end + sizeof(double), EXPOSURE_CHUNK, sizeof(double));
    memcpy(end, &sending->gain_db, sizeof(double));
    end_chunk(camera, end + sizeof(double), GAIN_CHUNK, sizeof(double));
}

/* Everything but the pixels; decides on the faults. */
static void address(struct camera *camera, struct buffer *buffer, const struct sending *sending) {
    const struct region *region = &sending->key->region;
    const struct format *format = sending->key->format;
    bool fits = bytes_of(format, region->width * region->height) + chunk_bytes(camera) <= buffer->size;
    bool wrong_size = strikes(camera, WRONG_SIZE), incomplete = strikes(camera, INCOMPLETE), little = strikes(camera, SHORT);
    buffer->new_data = true;
    buffer->region = *region;
    buffer->height_sent = !fits ? 0 : wrong_size || incomplete || little ? region->height / 2 : region->height;
    if (wrong_size)
        buffer->region.height = buffer->height_sent;
    if (strikes(camera, NO_HEIGHT))
        buffer->region.height = 0;
    bool whole = buffer->height_sent == region->height;
    buffer->filled = bytes_of(format, region->width * buffer->height_sent) + (whole ? chunk_bytes(camera) : 0);
    buffer->chunks = chunk_bytes(camera) > 0; /* said of the camera's mode, and true only of a whole frame */
    buffer->incomplete = !fits || incomplete;
    buffer->larger = strikes(camera, LARGER) || !fits;
    buffer->frame_id = sending->frame_id;
    buffer->timed = !strikes(camera, NO_TIMESTAMP);
    buffer->timestamp = timestamp(camera, sending->end_ns);
    buffer->format = (uint64_t)format->value;
    buffer->arrives_ns = strikes(camera, LATE) ? now_ns() + (int64_t)camera->conditions.late_ms * 1000000 : 0;
}

/* Without a queued buffer the frame is lost and only its number remains. */
static void send_frame(struct camera *camera, const struct sending *sending) {
    struct stream *stream = &camera->stream;
    struct buffer *buffer = oldest(stream, QUEUED);
    if (!buffer) {
        stream->underruns++;
        return;
    }
    set_state(stream, buffer, FILLING);
    stream->started++;
    address(camera, buffer, sending);
    int64_t lines = buffer->height_sent;
    uint8_t *memory = buffer->memory;
    pthread_mutex_unlock(&camera->lock);
    read_out(camera, memory, lines, sending->noise, sending->again);
    if (buffer->chunks && lines == sending->key->region.height)
        add_chunks(camera, buffer, sending);
    pthread_mutex_lock(&camera->lock);
    set_state(stream, buffer, READY);
    stream->incomplete += buffer->incomplete;
    stream->fired++;
    pthread_cond_broadcast(&camera->changed);
}

static void deliver(struct camera *camera, struct sending *sending) {
    sending->frame_id = take_frame_id(camera);
    if (strikes(camera, DROP)) {
        camera->stream.lost++;
        return;
    }
    bool twice = strikes(camera, DUPLICATE);
    send_frame(camera, sending);
    sending->again = true;
    if (twice)
        send_frame(camera, sending);
}

/* ---------------------------------------------------------------- exposures: the camera's clock */

static int64_t sensor_period_ns(const struct camera *camera) {
    return larger((int64_t)(1e9 / camera->model->frame_rate_max), (int64_t)(camera->registers[EXPOSURE_TIME].f * 1e3));
}

static uint64_t brightness(struct camera *camera) {
    double factor = camera->registers[EXPOSURE_TIME].f / camera->model->nominal_exposure_us * pow(10.0, camera->registers[GAIN].f / 20.0);
    factor *= 1.0 - (double)camera->conditions.light_lost_percent / 100.0;
    uint64_t seen = (uint64_t)lround(fmin(factor, 256.0) * NOMINAL);
    bool dark = strikes(camera, DARK), bright = strikes(camera, BRIGHT);
    return dark ? seen / 16 : bright ? (uint64_t)smaller((int64_t)seen * 16, BRIGHTEST) : seen;
}

void disarm(struct camera *camera) {
    release_scene(camera->waiting.scene);
    camera->waiting = (struct exposure){0};
}

/* A trigger at this moment. One that comes while the sensor is busy waits for it; a second one that would have to wait is ignored. */
void trigger(struct camera *camera, int64_t source) {
    struct exposure *waiting = &camera->waiting;
    int64_t now = now_ns();
    if (!streaming(camera) || !camera->registers[TRIGGER_MODE].i || camera->registers[TRIGGER_SOURCE].i != source || waiting->armed)
        return;
    if (now < camera->conditions.stalled_until_ns || strikes(camera, DEAF))
        return;
    int64_t delay_ns = (int64_t)(camera->registers[TRIGGER_DELAY].f * 1e3);
    waiting->armed = true;
    waiting->start_ns = now + delay_ns;
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
    start_ns = start_ns < now - period_ns ? now : start_ns; /* a late one is caught up with, a long pause is not */
    return larger(start_ns, camera->conditions.stalled_until_ns);
}

/* A frozen sensor shows what it showed before, unless it was set to something else since. */
static bool is_frozen(struct camera *camera, const struct plate_key *key) {
    const struct region *now = &key->region, *before = &camera->plate_key.region;
    bool same = key->format == camera->plate_key.format && now->x == before->x && now->y == before->y && now->width == before->width &&
                now->height == before->height;
    return same && strikes(camera, FROZEN);
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
        .format = format_of(registers[PIXEL_FORMAT].i),
        .brightness = brightness(camera),
    };
    bool frozen = is_frozen(camera, &key);
    if (frozen)
        key = camera->plate_key;
    struct sending sending = {
        .key = &key,
        .noise = exposure.scene ? exposure.scene->noise : 0,
        .end_ns = start_ns + (int64_t)(registers[EXPOSURE_TIME].f * 1e3),
        .exposure_us = registers[EXPOSURE_TIME].f,
        .gain_db = registers[GAIN].f,
        .again = frozen,
    };
    camera->last_start_ns = start_ns;
    pthread_mutex_unlock(&camera->lock);
    render(camera, &key, exposure.scene);
    pthread_mutex_lock(&camera->lock);
    while (streaming(camera) && now_ns() < sending.end_ns)
        wait_until(camera, sending.end_ns);
    if (streaming(camera))
        deliver(camera, &sending);
    release_scene(exposure.scene);
}

void *expose_for_ever(void *argument) {
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
