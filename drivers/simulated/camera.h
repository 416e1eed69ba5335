/*
 * One simulated camera: what its modules share.
 *
 *   models.c       the cameras on offer, the quirks of vendors, and the description (XML) of each
 *   formats.c      pixel formats, and how grey levels are laid out in them
 *   sensor.c       what stands before the camera, as pixels: a scene file, or a moving test pattern
 *   exposure.c     its clock and triggers, the consumer's buffers
 *   control.c      what is done to it from outside: Line0, unplugging, faults
 *   camera.c       the registers; opening and closing
 *   producer.c, ports.c, stream.c   the exported functions of GenTL (producer.h)
 *
 * Everything of a camera is guarded by its `lock`; its two threads and a waiting consumer wait on `changed`. Files lie in
 * $STATION_SIMULATED_DIR, or /tmp/station-simulated-<uid>:
 *
 *   <serial>.scene      what the camera sees (written by scene.py, replaced by rename, never changed in place)
 *   <serial>.sock       control: one word and its numbers a datagram; control.c lists them
 *   <serial>.faults     such words, a line each: in force from each enumeration and each opening on, while the file is there
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

enum { MODELS = 2, ALWAYS_FORMATS = 2, MORE_FORMATS = 4 };

struct model {
    const char *serial, *vendor, *name, *display, *transport, *mac;
    int64_t width, height;
    const char *formats[ALWAYS_FORMATS];
    double frame_rate_max, nominal_exposure_us, exposure_min_us, gain_max_db;
};

/* How a vendor's producer and cameras differ from the standard. */
struct profile {
    const char *name;      /* in $STATION_SIMULATED_PROFILES and in the description's sections */
    const char *transport; /* NULL: the model's */
    bool always_paced;     /* AcquisitionFrameRate needs no other feature to count */
    bool module_maps;      /* interface and stream have descriptions of their own, and a device's id is MODEL(MAC) */
    const char *formats[MORE_FORMATS], *conditions;
};

enum colours { MONO, RGB, BGR, BAYER_RG, BAYER_GR, BAYER_GB, BAYER_BG };
enum packing { BYTES, WORDS, BITSTREAM, GIGE };

struct format {
    const char *name;
    int64_t value;  /* PFNC: bits 16 to 23 tell the bits of a pixel */
    uint32_t depth; /* bits of a sample, right aligned */
    enum colours colours;
    enum packing packing;
};

/* Registers of 8 bytes, in the order of their addresses in camera.xml. */
enum reg {
    SENSOR_WIDTH, SENSOR_HEIGHT, WIDTH, HEIGHT, OFFSET_X, OFFSET_Y, PIXEL_FORMAT, CURRENT_FRAME_RATE, PAYLOAD_SIZE,
    ACQUISITION_START, ACQUISITION_STOP, FRAME_RATE_ENABLE, FRAME_RATE, FRAME_RATE_MAX,
    EXPOSURE_TIME, EXPOSURE_TIME_MIN, GAIN, GAIN_MAX,
    TRIGGER_MODE, TRIGGER_SOURCE, TRIGGER_ACTIVATION, TRIGGER_DELAY, TRIGGER_SOFTWARE, DEVICE_TEMPERATURE,
    TRIGGER_SWITCH, TRIGGER_FILTER_RISING, TRIGGER_FILTER_FALLING, EXPECTED_GRAY, AUTO_EXPOSURE_MIN, AUTO_EXPOSURE_MAX, AWB_LAMP_HOUSE,
    USER_SET_LOAD, CHUNK_MODE,
    REGISTERS,
};
enum string { VENDOR_NAME, MODEL_NAME, SERIAL_NUMBER, USER_ID, STRINGS };
enum { REGISTER_BASE = 0x1000, STRING_BASE = 0x2000, STRING_SIZE = 64, XML_BASE = 0x100000 };
enum { STREAM_SETTINGS = 4, CHUNKS = 3 };
enum { SOURCE_SOFTWARE, SOURCE_LINE0 }; /* values of TRIGGER_SOURCE */

union value {
    int64_t i;
    double f;
};

enum buffer_state { ABSENT, UNQUEUED, QUEUED, FILLING, READY };
enum { BUFFERS_MAX = 256, NOISE_TILE = 1 << 16, NOISE_CHUNK = 1 << 14, NOMINAL = 1 << 16, BRIGHTEST = 256 * NOMINAL };

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
    const struct format *format;
    uint64_t brightness; /* NOMINAL: as in the scene */
};

struct buffer {
    enum buffer_state state;
    uint64_t order;     /* since when it is in this state */
    int64_t arrives_ns; /* when a READY one can be fetched */
    uint8_t *memory;
    size_t size;
    void *user;
    bool new_data, incomplete, larger, timed, chunks;
    uint64_t frame_id, timestamp, format;
    size_t filled;
    int64_t height_sent;  /* lines that really came */
    struct region region; /* as the camera tells it */
};

struct stream {
    bool open, running, registered, killed;
    struct buffer buffers[BUFFERS_MAX];
    uint64_t order, delivered, underruns, started, fired, lost, incomplete;
};

/* Faults that happen to so many frames, triggers or buffers. */
enum fault {
    DROP, INCOMPLETE, DUPLICATE, LATE, BAD_ID, NO_HEIGHT, LARGER, SHORT, WRONG_SIZE, FROZEN, DARK, BRIGHT, NO_TIMESTAMP, DEAF, NULL_REVOKE,
    NO_SERIAL, FAULTS,
};
/* The consumer's calls that can fail, hang or crash. */
enum call { CALL_UPDATE, CALL_OPEN, CALL_READ, CALL_WRITE, CALL_START, CALL_QUEUE, CALL_FETCH, CALL_STOP, CALL_REVOKE, CALL_CLOSE, CALLS };
enum outcome { WORKS, FAILS, HANGS, CRASHES };

/* How the camera is out of order; all zero: it is not. */
struct conditions {
    uint64_t faults[FAULTS]; /* how often still; UINT64_MAX for ever */
    struct {
        enum outcome outcome;
        uint64_t amount; /* how often it fails still, or how many ms it hangs; UINT64_MAX for ever */
    } calls[CALLS];
    uint64_t late_ms, clock_hz, light_lost_percent; /* clock_hz 0: the host's monotonic clock, ns */
    int64_t drift_ppm, stalled_until_ns;
    bool short_ids; /* 16 bits without 0, as in GigE Vision 1 */
    bool first_id_set;
};

struct camera {
    const struct model *model;
    const struct profile *profile;
    bool all_formats;
    char id[STRING_SIZE];
    char *description;
    size_t description_size;
    int directory;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pthread_t exposer, controller;
    int lock_file, socket, quit;
    char port; /* its address is the handle of the remote port */
    bool present, open, lost, acquiring, busy, closing;
    union value registers[REGISTERS];
    char strings[STRINGS][STRING_SIZE];
    int64_t stream_settings[STREAM_SETTINGS]; /* kept, and of no effect */
    struct conditions conditions;
    struct exposure waiting;
    int64_t opened_ns, last_start_ns;
    uint64_t next_frame_id;
    struct stream stream;
    struct scene *scene;
    uint64_t scenes, pattern_exposures;
    /* The exposer's own. */
    struct plate_key plate_key;
    uint8_t *plate; /* the last picture as the sensor sees it, without noise: 8 bits a sample */
    int8_t noise[NOISE_TILE + NOISE_CHUNK];
    uint32_t noise_amplitude, random, random_before;
};

static inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* models.c. */
extern const struct model models[MODELS];
GC_ERROR choose_profiles(struct camera cameras[MODELS]);
bool offers(const struct camera *camera, const struct format *format);
bool describe(struct camera *camera);
extern const char interface_xml[], interface_xml_end[], stream_xml[], stream_xml_end[];

/* formats.c. */
const struct format *format_of(int64_t value);
const struct format *format_at(size_t index); /* NULL: there are no more */
int64_t samples_per_pixel(const struct format *format);
size_t bytes_of(const struct format *format, int64_t pixels);
void lay_out(const struct format *format, const uint8_t *restrict samples, size_t n, uint8_t *restrict target);

/* sensor.c. */
void latch(struct camera *camera, struct exposure *exposure);
void release_scene(struct scene *scene);
void render(struct camera *camera, const struct plate_key *key, const struct scene *scene);
void read_out(struct camera *camera, uint8_t *target, int64_t lines, uint32_t amplitude, bool again);

/* The caller of the following holds the lock, except where a group says otherwise. exposure.c. */
int64_t now_ns(void);
void set_state(struct stream *stream, struct buffer *buffer, enum buffer_state state);
struct buffer *oldest(struct stream *stream, enum buffer_state state);
struct buffer *await_buffer(struct camera *camera, uint64_t timeout_ms);
void trigger(struct camera *camera, int64_t source);
void disarm(struct camera *camera);
void settle(struct camera *camera);
size_t chunk_bytes(const struct camera *camera);
void *expose_for_ever(void *camera); /* a thread: takes the lock itself */

/* control.c. */
bool obey(struct camera *camera, const char *order);
void renew_conditions(struct camera *camera);
bool strikes(struct camera *camera, enum fault fault);
GC_ERROR enter(struct camera *camera, enum call call); /* without the lock */
bool plugged(const struct camera *camera);
bool listen_for_control(struct camera *camera);
void *control_for_ever(void *camera); /* a thread: takes the lock itself */
const char *file_name(const struct camera *camera, const char *suffix, char name[64]);

/* camera.c, without the lock. */
void prepare_camera(struct camera *camera, const struct model *model, int directory);
void forget_camera(struct camera *camera);
GC_ERROR open_camera(struct camera *camera);
void close_camera(struct camera *camera);
void close_stream(struct camera *camera);
/* camera.c, with the lock. */
int32_t access_status(struct camera *camera);
GC_ERROR read_port(struct camera *camera, uint64_t address, void *data, size_t size);
GC_ERROR write_port(struct camera *camera, uint64_t address, const void *data, size_t size);
