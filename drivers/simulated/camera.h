/*
 * One simulated camera: what its modules share.
 *
 *   sensor.c    what stands before the camera, as pixels: a scene file, or a moving test pattern
 *   camera.c    its clock and triggers, the consumer's buffers, the control socket, the registers; opening and closing
 *   producer.c  the exported functions of GenTL
 *
 * Everything of a camera is guarded by its `lock`; its two threads and a waiting consumer wait on `changed`. Files lie in
 * $STATION_SIMULATED_DIR, or /tmp/station-simulated-<uid>:
 *
 *   <serial>.scene      what the camera sees (written by scene.py, replaced by rename, never changed in place)
 *   <serial>.sock       control: a datagram `line0` is a pulse on Line0, `lost` unplugs the camera, `back` plugs it in again
 *   <serial>.lock       locked by the process that has the camera open
 *   <serial>.unplugged  is there while the camera is unplugged
 */
#pragma once
#include "gentl.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct model {
    const char *serial, *vendor, *name, *display, *transport;
    int64_t width, height, bayer_format;
    uint8_t cfa[2][2]; /* colour (0 red, 1 green, 2 blue) of sensor rows 0 and 1, columns 0 and 1 */
    double frame_rate_max, nominal_exposure_us, exposure_min_us, gain_max_db;
};

/* Registers of 8 bytes, in the order of their addresses in camera.xml. */
enum reg {
    SENSOR_WIDTH, SENSOR_HEIGHT, WIDTH, HEIGHT, OFFSET_X, OFFSET_Y, PIXEL_FORMAT, BAYER_FORMAT, PAYLOAD_SIZE,
    ACQUISITION_START, ACQUISITION_STOP, FRAME_RATE_ENABLE, FRAME_RATE, FRAME_RATE_MAX,
    EXPOSURE_TIME, EXPOSURE_TIME_MIN, GAIN, GAIN_MAX,
    TRIGGER_MODE, TRIGGER_SOURCE, TRIGGER_ACTIVATION, TRIGGER_DELAY, TRIGGER_SOFTWARE, DEVICE_TEMPERATURE,
    REGISTERS,
};
enum string { VENDOR_NAME, MODEL_NAME, SERIAL_NUMBER, USER_ID, STRINGS };
enum { REGISTER_BASE = 0x1000, STRING_BASE = 0x2000, STRING_SIZE = 64, XML_BASE = 0x100000 };
enum { SOURCE_SOFTWARE, SOURCE_LINE0 }; /* values of TRIGGER_SOURCE */

union value {
    int64_t i;
    double f;
};

enum buffer_state { ABSENT, UNQUEUED, QUEUED, FILLING, READY };
enum { BUFFERS_MAX = 256, NOISE_TILE = 1 << 16, NOISE_CHUNK = 1 << 14, NOMINAL = 1 << 16 };

struct region {
    int64_t x, y, width, height;
};

/* A scene file, mapped. It lives as long as the camera or an exposure refers to it, and so does its inode: no other file can have it. */
struct scene {
    int references;
    uint64_t number;
    dev_t device;
    ino_t inode;
    const uint8_t *map;
    size_t size;
    uint32_t count, noise;
    uint64_t exposures;
};

/* One opening of the shutter: what stood before the camera at that moment. */
struct exposure {
    bool armed, latched;
    int64_t start_ns;
    struct scene *scene; /* NULL: the test pattern */
    uint64_t picture;
};

/* What a picture as seen by the sensor depends on; equal keys, equal pictures. */
struct plate_key {
    uint64_t scene, picture;
    struct region region;
    int64_t format;
    uint64_t brightness; /* NOMINAL: as in the scene */
};

struct buffer {
    enum buffer_state state;
    uint64_t order; /* since when it is in this state */
    uint8_t *memory;
    size_t size;
    void *user;
    bool new_data, incomplete;
    uint64_t frame_id, timestamp_ns, format;
    struct region region;
};

struct stream {
    bool open, running, registered, killed;
    struct buffer buffers[BUFFERS_MAX];
    uint64_t order, delivered, underruns, started, fired;
};

struct camera {
    const struct model *model;
    int directory;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pthread_t exposer, controller;
    int lock_file, socket, quit;
    char port; /* its address is the handle of the remote port */
    bool present, open, lost, acquiring, busy, closing;
    union value registers[REGISTERS];
    char strings[STRINGS][STRING_SIZE];
    struct exposure waiting;
    int64_t last_start_ns;
    uint64_t next_frame_id;
    struct stream stream;
    struct scene *scene;
    uint64_t scenes, pattern_exposures;
    struct plate_key plate_key;
    uint8_t *plate; /* the last picture as the sensor sees it, without noise */
    int8_t noise[NOISE_TILE + NOISE_CHUNK];
    uint32_t noise_amplitude, random;
};

static inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

/* sensor.c. */
void latch(struct camera *camera, struct exposure *exposure);
void release_scene(struct scene *scene);
void render(struct camera *camera, const struct plate_key *key, const struct scene *scene);
void read_out(struct camera *camera, uint8_t *target, size_t size, uint32_t amplitude);

/* camera.c. The caller of those in the second group holds the lock. */
void prepare_camera(struct camera *camera, const struct model *model, int directory);
void forget_camera(struct camera *camera);
GC_ERROR open_camera(struct camera *camera);
void close_camera(struct camera *camera);
void close_stream(struct camera *camera);
bool plugged(const struct camera *camera);
const char *file_name(const struct camera *camera, const char *suffix, char name[64]);

int32_t access_status(struct camera *camera);
GC_ERROR read_port(struct camera *camera, uint64_t address, void *data, size_t size);
GC_ERROR write_port(struct camera *camera, uint64_t address, const void *data, size_t size);
size_t description_size(void);
void set_state(struct stream *stream, struct buffer *buffer, enum buffer_state state);
struct buffer *oldest(struct stream *stream, enum buffer_state state);
struct buffer *await_buffer(struct camera *camera, uint64_t timeout_ms);
void settle(struct camera *camera);
