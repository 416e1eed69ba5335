/* The GenTL producer of the simulated cameras: the exported functions, for any GenTL consumer. camera.h tells what is where. */
#define _GNU_SOURCE
#include "camera.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---------------------------------------------------------------- the cameras on offer */

/* Size and rate are the models'. Assumed, for want of a vendor's description: the Bayer patterns, exposure minimum and gain range.
 * The nominal exposure, the value after power-on, is ours: with it and gain 0 a scene is seen exactly as it is. */
static const struct model MODELS[] = {
    {
        .serial = "SIM-MER131",
        .vendor = "Daheng Imaging (simulated)",
        .name = "MER-131-75GC-P",
        .display = "MER-131-75GC-P SIM-MER131 (simulated)",
        .transport = "GEV",
        .width = 1280,
        .height = 1024,
        .frame_rate_max = 75.0,
        .bayer_format = PFNC_BAYER_RG8,
        .cfa = {{0, 1}, {1, 2}},
        .nominal_exposure_us = 4000.0,
        .exposure_min_us = 20.0,
        .gain_max_db = 16.0,
    },
    {
        .serial = "SIM-MQ042",
        .vendor = "XIMEA (simulated)",
        .name = "MQ042CG-CM",
        .display = "MQ042CG-CM SIM-MQ042 (simulated)",
        .transport = "U3V",
        .width = 2048,
        .height = 2048,
        .frame_rate_max = 90.0,
        .bayer_format = PFNC_BAYER_GB8,
        .cfa = {{1, 2}, {0, 1}},
        .nominal_exposure_us = 2000.0,
        .exposure_min_us = 30.0,
        .gain_max_db = 6.0,
    },
};
enum { CAMERAS = sizeof MODELS / sizeof MODELS[0] };

static const char VENDOR[] = "Station", PRODUCER[] = "Simulated cameras", VERSION[] = "1.0.0";
static const char INTERFACE[] = "simulated", STREAM[] = "stream0";

static struct {
    bool initialized, open, interface_open;
    int directory;
    struct camera cameras[CAMERAS];
} library;

/* ---------------------------------------------------------------- answers and handles */

static _Thread_local struct {
    GC_ERROR code;
    char text[256];
} last_error;

GC_ERROR fail(GC_ERROR code, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    last_error.code = code;
    vsnprintf(last_error.text, sizeof last_error.text, format, arguments);
    va_end(arguments);
    return code;
}

#define GENTL __attribute__((visibility("default"))) GC_ERROR

struct answer {
    int32_t *type;
    void *buffer;
    size_t *size;
};

/* Every information is asked for twice: without a buffer for its size, then with one. */
static GC_ERROR put(struct answer answer, int32_t type, const void *value, size_t size) {
    if (!answer.size)
        return fail(GC_ERR_INVALID_PARAMETER, "no place for the size");
    if (answer.type)
        *answer.type = type;
    if (answer.buffer && *answer.size < size)
        return fail(GC_ERR_BUFFER_TOO_SMALL, "%zu bytes are needed, %zu are there", size, *answer.size);
    if (answer.buffer)
        memcpy(answer.buffer, value, size);
    *answer.size = size;
    return GC_ERR_SUCCESS;
}

static GC_ERROR put_string(struct answer answer, const char *text) { return put(answer, TYPE_STRING, text, strlen(text) + 1); }
static GC_ERROR put_int32(struct answer answer, int32_t value) { return put(answer, TYPE_INT32, &value, sizeof value); }
static GC_ERROR put_uint32(struct answer answer, uint32_t value) { return put(answer, TYPE_UINT32, &value, sizeof value); }
static GC_ERROR put_uint64(struct answer answer, uint64_t value) { return put(answer, TYPE_UINT64, &value, sizeof value); }
static GC_ERROR put_size(struct answer answer, size_t value) { return put(answer, TYPE_SIZET, &value, sizeof value); }
static GC_ERROR put_pointer(struct answer answer, void *value) { return put(answer, TYPE_PTR, &value, sizeof value); }
static GC_ERROR put_bool(struct answer answer, bool8_t value) { return put(answer, TYPE_BOOL8, &value, sizeof value); }

static GC_ERROR not_available(int32_t command) { return fail(GC_ERR_NOT_AVAILABLE, "information %d is not available", (int)command); }

static GC_ERROR invalid(const char *what) {
    return library.initialized ? fail(GC_ERR_INVALID_HANDLE, "not an open %s", what)
                               : fail(GC_ERR_NOT_INITIALIZED, "GCInitLib was not called");
}

static bool is_system(const void *handle) { return library.open && handle == &library; }
static bool is_interface(const void *handle) { return library.interface_open && handle == &library.interface_open; }

#define FIND_CAMERA(condition)                                                                        \
    for (struct camera *camera = library.cameras; camera < library.cameras + CAMERAS; camera++)       \
        if (condition)                                                                                \
            return camera;                                                                            \
    return NULL

static struct camera *camera_of_id(const char *id) { FIND_CAMERA(id && camera->present && strcmp(id, camera->model->serial) == 0); }
static struct camera *camera_of_device(const void *handle) { FIND_CAMERA(camera->open && handle == camera); }
static struct camera *camera_of_port(const void *handle) { FIND_CAMERA(camera->open && handle == &camera->port); }
static struct camera *camera_of_stream(const void *handle) { FIND_CAMERA(camera->stream.open && handle == &camera->stream); }
static struct camera *camera_of_event(const void *handle) {
    FIND_CAMERA(camera->stream.registered && handle == &camera->stream.registered);
}

static struct buffer *buffer_of(struct camera *camera, void *handle) {
    for (struct buffer *buffer = camera->stream.buffers; buffer < camera->stream.buffers + BUFFERS_MAX; buffer++)
        if (handle == buffer && buffer->state != ABSENT)
            return buffer;
    return NULL;
}

/* Declared without arguments, for none is looked at. */
#define NOT_IMPLEMENTED(function) \
    GENTL function(void) { return fail(GC_ERR_NOT_IMPLEMENTED, #function " is not implemented"); }

/* ---------------------------------------------------------------- library and system */

static GC_ERROR open_directory(void) {
    char standard[64];
    const char *path = getenv("STATION_SIMULATED_DIR");
    if (!path || !*path) {
        snprintf(standard, sizeof standard, "/tmp/station-simulated-%u", (unsigned)getuid());
        path = standard;
    }
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return fail(GC_ERR_IO, "%s cannot be made: %s", path, strerror(errno));
    library.directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return library.directory < 0 ? fail(GC_ERR_IO, "%s cannot be opened: %s", path, strerror(errno)) : GC_ERR_SUCCESS;
}

GENTL GCInitLib(void) {
    if (library.initialized)
        return fail(GC_ERR_RESOURCE_IN_USE, "GCInitLib was called already");
    memset(&library, 0, sizeof library);
    GC_ERROR error = open_directory();
    if (error)
        return error;
    for (int i = 0; i < CAMERAS; i++)
        prepare_camera(&library.cameras[i], &MODELS[i], library.directory);
    library.initialized = true;
    return GC_ERR_SUCCESS;
}

GENTL GCCloseLib(void) {
    if (!library.initialized)
        return invalid("library");
    for (int i = 0; i < CAMERAS; i++)
        forget_camera(&library.cameras[i]);
    close(library.directory);
    library.initialized = library.open = library.interface_open = false;
    return GC_ERR_SUCCESS;
}

GENTL GCGetInfo(int32_t command, int32_t *type, void *buffer, size_t *size) {
    struct answer answer = {type, buffer, size};
    switch (command) {
    case TL_ID:
    case TL_MODEL:
    case TL_NAME:
    case TL_DISPLAYNAME: return put_string(answer, PRODUCER);
    case TL_VENDOR: return put_string(answer, VENDOR);
    case TL_VERSION: return put_string(answer, VERSION);
    case TL_TLTYPE: return put_string(answer, "Mixed");
    case TL_ENCODING: return put_int32(answer, 0);
    case TL_MAJOR: return put_uint32(answer, 1);
    case TL_MINOR: return put_uint32(answer, 5);
    default: return not_available(command);
    }
}

GENTL GCGetLastError(GC_ERROR *code, char *text, size_t *size) {
    if (code)
        *code = last_error.code;
    return put_string((struct answer){NULL, text, size}, last_error.text);
}

GENTL TLOpen(void **handle) {
    if (!library.initialized)
        return invalid("library");
    if (library.open)
        return fail(GC_ERR_RESOURCE_IN_USE, "the system is already open");
    library.open = true;
    *handle = &library;
    return GC_ERR_SUCCESS;
}

GENTL TLClose(void *handle) {
    if (!is_system(handle))
        return invalid("system");
    library.open = false;
    return GC_ERR_SUCCESS;
}

GENTL TLGetInfo(void *handle, int32_t command, int32_t *type, void *buffer, size_t *size) {
    return is_system(handle) ? GCGetInfo(command, type, buffer, size) : invalid("system");
}

GENTL TLUpdateInterfaceList(void *handle, bool8_t *changed, uint64_t timeout_ms) {
    (void)timeout_ms;
    if (!is_system(handle))
        return invalid("system");
    if (changed)
        *changed = 0;
    return GC_ERR_SUCCESS;
}

GENTL TLGetNumInterfaces(void *handle, uint32_t *interfaces) {
    if (!is_system(handle))
        return invalid("system");
    *interfaces = 1;
    return GC_ERR_SUCCESS;
}

GENTL TLGetInterfaceID(void *handle, uint32_t index, char *id, size_t *size) {
    if (!is_system(handle))
        return invalid("system");
    return index == 0 ? put_string((struct answer){NULL, id, size}, INTERFACE) : fail(GC_ERR_INVALID_INDEX, "there is one interface");
}

static GC_ERROR interface_info(int32_t command, struct answer answer) {
    switch (command) {
    case IF_ID:
    case IF_DISPLAYNAME: return put_string(answer, INTERFACE);
    case IF_TLTYPE: return put_string(answer, "Custom");
    default: return not_available(command);
    }
}

GENTL TLGetInterfaceInfo(void *handle, const char *id, int32_t command, int32_t *type, void *buffer, size_t *size) {
    if (!is_system(handle))
        return invalid("system");
    return id && strcmp(id, INTERFACE) == 0 ? interface_info(command, (struct answer){type, buffer, size})
                                            : fail(GC_ERR_INVALID_ID, "there is one interface: %s", INTERFACE);
}

GENTL TLOpenInterface(void *handle, const char *id, void **interface) {
    if (!is_system(handle))
        return invalid("system");
    if (!id || strcmp(id, INTERFACE) != 0)
        return fail(GC_ERR_INVALID_ID, "there is one interface: %s", INTERFACE);
    if (library.interface_open)
        return fail(GC_ERR_RESOURCE_IN_USE, "the interface is already open");
    library.interface_open = true;
    *interface = &library.interface_open;
    return GC_ERR_SUCCESS;
}

/* ---------------------------------------------------------------- interface */

GENTL IFClose(void *handle) {
    if (!is_interface(handle))
        return invalid("interface");
    library.interface_open = false;
    return GC_ERR_SUCCESS;
}

GENTL IFGetInfo(void *handle, int32_t command, int32_t *type, void *buffer, size_t *size) {
    return is_interface(handle) ? interface_info(command, (struct answer){type, buffer, size}) : invalid("interface");
}

GENTL IFUpdateDeviceList(void *handle, bool8_t *changed, uint64_t timeout_ms) {
    (void)timeout_ms;
    if (!is_interface(handle))
        return invalid("interface");
    bool8_t any = 0;
    for (struct camera *camera = library.cameras; camera < library.cameras + CAMERAS; camera++) {
        bool present = plugged(camera);
        any |= present != camera->present;
        camera->present = present;
    }
    if (changed)
        *changed = any;
    return GC_ERR_SUCCESS;
}

GENTL IFGetNumDevices(void *handle, uint32_t *devices) {
    if (!is_interface(handle))
        return invalid("interface");
    *devices = 0;
    for (int i = 0; i < CAMERAS; i++)
        *devices += library.cameras[i].present;
    return GC_ERR_SUCCESS;
}

GENTL IFGetDeviceID(void *handle, uint32_t index, char *id, size_t *size) {
    if (!is_interface(handle))
        return invalid("interface");
    for (struct camera *camera = library.cameras; camera < library.cameras + CAMERAS; camera++)
        if (camera->present && index-- == 0)
            return put_string((struct answer){NULL, id, size}, camera->model->serial);
    return fail(GC_ERR_INVALID_INDEX, "there are not so many devices");
}

static GC_ERROR locked_device_info(struct camera *camera, int32_t command, struct answer answer) {
    switch (command) {
    case DEV_ID:
    case DEV_SERIAL: return put_string(answer, camera->model->serial);
    case DEV_VENDOR: return put_string(answer, camera->model->vendor);
    case DEV_MODEL: return put_string(answer, camera->model->name);
    case DEV_TLTYPE: return put_string(answer, camera->model->transport);
    case DEV_DISPLAYNAME: return put_string(answer, camera->model->display);
    case DEV_ACCESS: return put_int32(answer, access_status(camera));
    case DEV_USER_NAME: return put_string(answer, camera->strings[USER_ID]);
    case DEV_VERSION: return put_string(answer, VERSION);
    case DEV_TIMESTAMP_HZ: return put_uint64(answer, 1000000000);
    default: return not_available(command);
    }
}

static GC_ERROR device_info(struct camera *camera, int32_t command, struct answer answer) {
    pthread_mutex_lock(&camera->lock);
    GC_ERROR error = locked_device_info(camera, command, answer);
    pthread_mutex_unlock(&camera->lock);
    return error;
}

GENTL IFGetDeviceInfo(void *handle, const char *id, int32_t command, int32_t *type, void *buffer, size_t *size) {
    if (!is_interface(handle))
        return invalid("interface");
    struct camera *camera = camera_of_id(id);
    return camera ? device_info(camera, command, (struct answer){type, buffer, size}) : fail(GC_ERR_INVALID_ID, "no such device");
}

GENTL IFOpenDevice(void *handle, const char *id, int32_t access, void **device) {
    if (!is_interface(handle))
        return invalid("interface");
    struct camera *camera = camera_of_id(id);
    if (!camera || !plugged(camera))
        return fail(GC_ERR_INVALID_ID, "%s is not there", id ? id : "a device without an id");
    if (access != OPEN_CONTROL && access != OPEN_EXCLUSIVE)
        return fail(GC_ERR_NOT_IMPLEMENTED, "%s opens exclusively or not at all", id);
    GC_ERROR error = open_camera(camera);
    if (!error)
        *device = camera;
    return error;
}

/* ---------------------------------------------------------------- device */

GENTL DevClose(void *handle) {
    struct camera *camera = camera_of_device(handle);
    if (!camera)
        return invalid("device");
    close_camera(camera);
    return GC_ERR_SUCCESS;
}

GENTL DevGetInfo(void *handle, int32_t command, int32_t *type, void *buffer, size_t *size) {
    struct camera *camera = camera_of_device(handle);
    return camera ? device_info(camera, command, (struct answer){type, buffer, size}) : invalid("device");
}

GENTL DevGetPort(void *handle, void **port) {
    struct camera *camera = camera_of_device(handle);
    if (!camera)
        return invalid("device");
    *port = &camera->port;
    return GC_ERR_SUCCESS;
}

GENTL DevGetNumDataStreams(void *handle, uint32_t *streams) {
    if (!camera_of_device(handle))
        return invalid("device");
    *streams = 1;
    return GC_ERR_SUCCESS;
}

GENTL DevGetDataStreamID(void *handle, uint32_t index, char *id, size_t *size) {
    if (!camera_of_device(handle))
        return invalid("device");
    return index == 0 ? put_string((struct answer){NULL, id, size}, STREAM) : fail(GC_ERR_INVALID_INDEX, "there is one stream");
}

GENTL DevOpenDataStream(void *handle, const char *id, void **stream) {
    struct camera *camera = camera_of_device(handle);
    if (!camera)
        return invalid("device");
    if (!id || strcmp(id, STREAM) != 0)
        return fail(GC_ERR_INVALID_ID, "there is one stream: %s", STREAM);
    if (camera->stream.open)
        return fail(GC_ERR_RESOURCE_IN_USE, "the stream is already open");
    camera->stream.open = true;
    *stream = &camera->stream;
    return GC_ERR_SUCCESS;
}

/* ---------------------------------------------------------------- ports */

struct module {
    const char *id, *kind, *port;
};

/* Which module a port's handle belongs to. Only the camera itself, the remote device, has registers and a description. */
static struct module module_of(const void *handle) {
    struct camera *camera = camera_of_port(handle);
    if (camera)
        return (struct module){camera->model->serial, "TLRemoteDevice", "Device"};
    if (is_system(handle))
        return (struct module){PRODUCER, "TLSystem", "TLPort"};
    if (is_interface(handle))
        return (struct module){INTERFACE, "TLInterface", "InterfacePort"};
    if ((camera = camera_of_device(handle)))
        return (struct module){camera->model->serial, "TLDevice", "DevicePort"};
    if (camera_of_stream(handle))
        return (struct module){STREAM, "TLDataStream", "StreamPort"};
    return (struct module){0};
}

GENTL GCGetPortInfo(void *handle, int32_t command, int32_t *type, void *buffer, size_t *size) {
    struct answer answer = {type, buffer, size};
    struct module module = module_of(handle);
    struct camera *camera = camera_of_port(handle);
    if (!module.id)
        return invalid("port");
    switch (command) {
    case PORT_ID: return put_string(answer, module.id);
    case PORT_VENDOR: return put_string(answer, camera ? camera->model->vendor : VENDOR);
    case PORT_MODEL: return put_string(answer, camera ? camera->model->name : PRODUCER);
    case PORT_TLTYPE: return put_string(answer, camera ? camera->model->transport : "Custom");
    case PORT_MODULE: return put_string(answer, module.kind);
    case PORT_LITTLE_ENDIAN: return put_bool(answer, 1);
    case PORT_BIG_ENDIAN: return put_bool(answer, 0);
    case PORT_READ:
    case PORT_WRITE: return put_bool(answer, camera != NULL);
    case PORT_NA: return put_bool(answer, 0);
    case PORT_NI: return put_bool(answer, camera == NULL);
    case PORT_VERSION: return put_string(answer, VERSION);
    case PORT_NAME: return put_string(answer, module.port);
    default: return not_available(command);
    }
}

static GC_ERROR access_port(void *handle, uint64_t address, void *to, const void *from, const size_t *size) {
    struct camera *camera = camera_of_port(handle);
    if (!camera)
        return module_of(handle).id ? fail(GC_ERR_INVALID_ADDRESS, "this module has no registers") : invalid("port");
    if (!size || (!to && !from))
        return fail(GC_ERR_INVALID_PARAMETER, "nothing to read to or to write from");
    pthread_mutex_lock(&camera->lock);
    GC_ERROR error = camera->lost ? fail(GC_ERR_IO, "%s does not answer", camera->model->serial)
                     : to         ? read_port(camera, address, to, *size)
                                  : write_port(camera, address, from, *size);
    pthread_mutex_unlock(&camera->lock);
    return error;
}

GENTL GCReadPort(void *handle, uint64_t address, void *buffer, size_t *size) { return access_port(handle, address, buffer, NULL, size); }

GENTL GCWritePort(void *handle, uint64_t address, const void *buffer, size_t *size) {
    return access_port(handle, address, NULL, buffer, size);
}

GENTL GCGetNumPortURLs(void *handle, uint32_t *urls) {
    if (!camera_of_port(handle)) /* also asked of devices that are not open; a module without a description must not answer 0 */
        return fail(GC_ERR_NOT_AVAILABLE, "this module has no description");
    *urls = 1;
    return GC_ERR_SUCCESS;
}

GENTL GCGetPortURLInfo(void *handle, uint32_t index, int32_t command, int32_t *type, void *buffer, size_t *size) {
    struct answer answer = {type, buffer, size};
    if (!camera_of_port(handle))
        return invalid("remote port");
    if (index != 0)
        return fail(GC_ERR_INVALID_INDEX, "there is one description");
    char url[96];
    size_t length = description_size();
    snprintf(url, sizeof url, "local:///camera.xml;%X;%zX?SchemaVersion=1.1.0", (unsigned)XML_BASE, length);
    switch (command) {
    case URL_URL: return put_string(answer, url);
    case URL_SCHEMA_MAJOR:
    case URL_SCHEMA_MINOR:
    case URL_MAJOR: return put_int32(answer, 1);
    case URL_MINOR:
    case URL_SUBMINOR:
    case URL_SCHEME: return put_int32(answer, 0);
    case URL_ADDRESS: return put_uint64(answer, XML_BASE);
    case URL_SIZE: return put_uint64(answer, length);
    case URL_FILENAME: return put_string(answer, "camera.xml");
    default: return not_available(command);
    }
}

GENTL GCGetPortURL(void *handle, char *url, size_t *size) { return GCGetPortURLInfo(handle, 0, URL_URL, NULL, url, size); }

NOT_IMPLEMENTED(GCReadPortStacked)
NOT_IMPLEMENTED(GCWritePortStacked)

/* ---------------------------------------------------------------- data stream */

GENTL DSClose(void *handle) {
    struct camera *camera = camera_of_stream(handle);
    if (!camera)
        return invalid("stream");
    close_stream(camera);
    return GC_ERR_SUCCESS;
}

GENTL DSAnnounceBuffer(void *handle, void *memory, size_t size, void *user, void **result) {
    struct camera *camera = camera_of_stream(handle);
    if (!camera)
        return invalid("stream");
    if (!memory || !result)
        return fail(GC_ERR_INVALID_PARAMETER, "no memory to announce");
    pthread_mutex_lock(&camera->lock);
    struct buffer *buffer = oldest(&camera->stream, ABSENT);
    if (buffer) {
        *buffer = (struct buffer){.memory = memory, .size = size, .user = user};
        set_state(&camera->stream, buffer, UNQUEUED);
        *result = buffer;
    }
    pthread_mutex_unlock(&camera->lock);
    return buffer ? GC_ERR_SUCCESS : fail(GC_ERR_RESOURCE_EXHAUSTED, "at most %d buffers can be announced", BUFFERS_MAX);
}

GENTL DSRevokeBuffer(void *handle, void *token, void **memory, void **user) {
    struct camera *camera = camera_of_stream(handle);
    struct buffer *buffer = camera ? buffer_of(camera, token) : NULL;
    if (!buffer)
        return invalid(camera ? "buffer" : "stream");
    pthread_mutex_lock(&camera->lock);
    bool idle = buffer->state == UNQUEUED;
    if (idle) {
        if (memory)
            *memory = buffer->memory;
        if (user)
            *user = buffer->user;
        buffer->state = ABSENT;
    }
    pthread_mutex_unlock(&camera->lock);
    return idle ? GC_ERR_SUCCESS : fail(GC_ERR_BUSY, "a queued buffer cannot be revoked");
}

GENTL DSQueueBuffer(void *handle, void *token) {
    struct camera *camera = camera_of_stream(handle);
    struct buffer *buffer = camera ? buffer_of(camera, token) : NULL;
    if (!buffer)
        return invalid(camera ? "buffer" : "stream");
    pthread_mutex_lock(&camera->lock);
    bool idle = buffer->state == UNQUEUED;
    if (idle) {
        buffer->new_data = false;
        set_state(&camera->stream, buffer, QUEUED);
    }
    pthread_mutex_unlock(&camera->lock);
    return idle ? GC_ERR_SUCCESS : fail(GC_ERR_RESOURCE_IN_USE, "the buffer is already queued");
}

GENTL DSFlushQueue(void *handle, int32_t operation) {
    struct camera *camera = camera_of_stream(handle);
    if (!camera)
        return invalid("stream");
    if (operation < FLUSH_INPUT_TO_OUTPUT || operation > FLUSH_ALL_DISCARD)
        return fail(GC_ERR_INVALID_PARAMETER, "there is no flush operation %d", (int)operation);
    pthread_mutex_lock(&camera->lock);
    for (struct buffer *buffer = camera->stream.buffers; buffer < camera->stream.buffers + BUFFERS_MAX; buffer++) {
        bool unqueued = buffer->state == UNQUEUED, input = buffer->state == QUEUED, output = buffer->state == READY;
        if (operation == FLUSH_INPUT_TO_OUTPUT && input)
            set_state(&camera->stream, buffer, READY);
        else if ((operation == FLUSH_OUTPUT_DISCARD && output) || (operation == FLUSH_ALL_DISCARD && (input || output)))
            set_state(&camera->stream, buffer, UNQUEUED);
        else if ((operation == FLUSH_ALL_TO_INPUT && (unqueued || output)) || (operation == FLUSH_UNQUEUED_TO_INPUT && unqueued))
            set_state(&camera->stream, buffer, QUEUED);
    }
    pthread_cond_broadcast(&camera->changed);
    pthread_mutex_unlock(&camera->lock);
    return GC_ERR_SUCCESS;
}

GENTL DSStartAcquisition(void *handle, int32_t flags, uint64_t frames) {
    (void)flags, (void)frames;
    struct camera *camera = camera_of_stream(handle);
    if (!camera)
        return invalid("stream");
    pthread_mutex_lock(&camera->lock);
    struct stream *stream = &camera->stream;
    bool running = stream->running;
    if (!running) {
        stream->running = true;
        stream->delivered = stream->underruns = stream->started = 0;
        pthread_cond_broadcast(&camera->changed);
    }
    pthread_mutex_unlock(&camera->lock);
    return running ? fail(GC_ERR_RESOURCE_IN_USE, "the stream is already running") : GC_ERR_SUCCESS;
}

GENTL DSStopAcquisition(void *handle, int32_t flags) {
    (void)flags;
    struct camera *camera = camera_of_stream(handle);
    if (!camera)
        return invalid("stream");
    pthread_mutex_lock(&camera->lock);
    camera->stream.running = false;
    settle(camera);
    pthread_mutex_unlock(&camera->lock);
    return GC_ERR_SUCCESS;
}

static size_t count(const struct stream *stream, enum buffer_state state) {
    size_t found = 0;
    for (const struct buffer *buffer = stream->buffers; buffer < stream->buffers + BUFFERS_MAX; buffer++)
        found += buffer->state == state;
    return found;
}

static GC_ERROR stream_info(const struct camera *camera, int32_t command, struct answer answer) {
    const struct stream *stream = &camera->stream;
    switch (command) {
    case DS_ID: return put_string(answer, STREAM);
    case DS_DELIVERED: return put_uint64(answer, stream->delivered);
    case DS_UNDERRUN: return put_uint64(answer, stream->underruns);
    case DS_ANNOUNCED: return put_size(answer, BUFFERS_MAX - count(stream, ABSENT));
    case DS_QUEUED: return put_size(answer, count(stream, QUEUED));
    case DS_AWAIT_DELIVERY: return put_size(answer, count(stream, READY));
    case DS_STARTED: return put_uint64(answer, stream->started);
    case DS_PAYLOAD_SIZE: return put_size(answer, (size_t)camera->registers[PAYLOAD_SIZE].i);
    case DS_IS_GRABBING: return put_bool(answer, stream->running);
    case DS_DEFINES_PAYLOADSIZE: return put_bool(answer, 0);
    case DS_TLTYPE: return put_string(answer, camera->model->transport);
    case DS_CHUNKS_MAX: return put_size(answer, 0);
    case DS_ANNOUNCE_MIN:
    case DS_ALIGNMENT: return put_size(answer, 1);
    default: return not_available(command);
    }
}

GENTL DSGetInfo(void *handle, int32_t command, int32_t *type, void *buffer, size_t *size) {
    struct camera *camera = camera_of_stream(handle);
    if (!camera)
        return invalid("stream");
    pthread_mutex_lock(&camera->lock);
    GC_ERROR error = stream_info(camera, command, (struct answer){type, buffer, size});
    pthread_mutex_unlock(&camera->lock);
    return error;
}

GENTL DSGetBufferID(void *handle, uint32_t index, void **token) {
    struct camera *camera = camera_of_stream(handle);
    if (!camera)
        return invalid("stream");
    for (struct buffer *buffer = camera->stream.buffers; buffer < camera->stream.buffers + BUFFERS_MAX; buffer++)
        if (buffer->state != ABSENT && index-- == 0) {
            *token = buffer;
            return GC_ERR_SUCCESS;
        }
    return fail(GC_ERR_INVALID_INDEX, "not so many buffers are announced");
}

static GC_ERROR buffer_info(const struct camera *camera, const struct buffer *buffer, int32_t command, struct answer answer) {
    size_t size = (size_t)(buffer->region.width * buffer->region.height);
    switch (command) {
    case BUF_BASE: return put_pointer(answer, buffer->memory);
    case BUF_SIZE: return put_size(answer, buffer->size);
    case BUF_USER_PTR: return put_pointer(answer, buffer->user);
    case BUF_TIMESTAMP:
    case BUF_TIMESTAMP_NS: return put_uint64(answer, buffer->timestamp_ns);
    case BUF_NEW_DATA:
    case BUF_IMAGEPRESENT: return put_bool(answer, buffer->new_data);
    case BUF_IS_QUEUED: return put_bool(answer, buffer->state == QUEUED || buffer->state == READY);
    case BUF_IS_ACQUIRING: return put_bool(answer, buffer->state == FILLING);
    case BUF_IS_INCOMPLETE:
    case BUF_DATA_LARGER: return put_bool(answer, buffer->incomplete);
    case BUF_TLTYPE: return put_string(answer, camera->model->transport);
    case BUF_SIZE_FILLED:
    case BUF_DATA_SIZE: return put_size(answer, buffer->incomplete ? 0 : size);
    case BUF_WIDTH: return put_size(answer, (size_t)buffer->region.width);
    case BUF_HEIGHT: return put_size(answer, (size_t)buffer->region.height);
    case BUF_DELIVERED_HEIGHT: return put_size(answer, buffer->incomplete ? 0 : (size_t)buffer->region.height);
    case BUF_XOFFSET: return put_size(answer, (size_t)buffer->region.x);
    case BUF_YOFFSET: return put_size(answer, (size_t)buffer->region.y);
    case BUF_XPADDING:
    case BUF_YPADDING:
    case BUF_IMAGEOFFSET: return put_size(answer, 0);
    case BUF_FRAMEID: return put_uint64(answer, buffer->frame_id);
    case BUF_PAYLOADTYPE: return put_size(answer, PAYLOAD_TYPE_IMAGE);
    case BUF_PIXELFORMAT: return put_uint64(answer, buffer->format);
    case BUF_PIXELFORMAT_NAMESPACE: return put_uint64(answer, NAMESPACE_PFNC_32BIT);
    case BUF_CONTAINS_CHUNKDATA: return put_bool(answer, 0);
    default: return not_available(command);
    }
}

GENTL DSGetBufferInfo(void *handle, void *token, int32_t command, int32_t *type, void *buffer, size_t *size) {
    struct camera *camera = camera_of_stream(handle);
    struct buffer *announced = camera ? buffer_of(camera, token) : NULL;
    if (!announced)
        return invalid(camera ? "buffer" : "stream");
    pthread_mutex_lock(&camera->lock);
    GC_ERROR error = buffer_info(camera, announced, command, (struct answer){type, buffer, size});
    pthread_mutex_unlock(&camera->lock);
    return error;
}

NOT_IMPLEMENTED(DSAllocAndAnnounceBuffer)
NOT_IMPLEMENTED(DSGetBufferChunkData)
NOT_IMPLEMENTED(DSGetNumBufferParts)
NOT_IMPLEMENTED(DSGetBufferPartInfo)
NOT_IMPLEMENTED(DSGetParentDev)
NOT_IMPLEMENTED(DevGetParentIF)
NOT_IMPLEMENTED(IFGetParentTL)

/* Of GenTL 1.6: consumers that know it complain about each one that is missing. */
NOT_IMPLEMENTED(DSAnnounceCompositeBuffer)
NOT_IMPLEMENTED(DSGetBufferInfoStacked)
NOT_IMPLEMENTED(DSGetBufferPartInfoStacked)
NOT_IMPLEMENTED(DSGetNumFlows)
NOT_IMPLEMENTED(DSGetFlowInfo)
NOT_IMPLEMENTED(DSGetNumBufferSegments)
NOT_IMPLEMENTED(DSGetBufferSegmentInfo)

/* ---------------------------------------------------------------- the event of a new buffer */

#pragma pack(push, 1)
struct new_buffer_data {
    void *buffer, *user;
};
#pragma pack(pop)

GENTL GCRegisterEvent(void *handle, int32_t event_type, void **event) {
    struct camera *camera = camera_of_stream(handle);
    if (!camera || event_type != EVENT_NEW_BUFFER)
        return module_of(handle).id ? fail(GC_ERR_NOT_IMPLEMENTED, "this module has no event %d", (int)event_type) : invalid("module");
    if (camera->stream.registered)
        return fail(GC_ERR_RESOURCE_IN_USE, "the event is already registered");
    camera->stream.registered = true;
    camera->stream.killed = false;
    *event = &camera->stream.registered;
    return GC_ERR_SUCCESS;
}

GENTL GCUnregisterEvent(void *handle, int32_t event_type) {
    struct camera *camera = camera_of_stream(handle);
    if (!camera || event_type != EVENT_NEW_BUFFER || !camera->stream.registered)
        return invalid("registered event");
    camera->stream.registered = false;
    return GC_ERR_SUCCESS;
}

GENTL EventGetData(void *handle, void *data, size_t *size, uint64_t timeout_ms) {
    struct camera *camera = camera_of_event(handle);
    if (!camera)
        return invalid("event");
    if (!data || !size || *size < sizeof(struct new_buffer_data))
        return fail(GC_ERR_BUFFER_TOO_SMALL, "%zu bytes are needed", sizeof(struct new_buffer_data));
    pthread_mutex_lock(&camera->lock);
    struct stream *stream = &camera->stream;
    struct buffer *buffer = await_buffer(camera, timeout_ms);
    bool killed = stream->killed;
    stream->killed = false;
    if (buffer && !killed) {
        set_state(stream, buffer, UNQUEUED);
        stream->delivered++;
        struct new_buffer_data answer = {buffer, buffer->user};
        memcpy(data, &answer, sizeof answer);
        *size = sizeof answer;
    }
    pthread_mutex_unlock(&camera->lock);
    if (killed)
        return fail(GC_ERR_ABORT, "the wait was ended by EventKill");
    return buffer ? GC_ERR_SUCCESS : fail(GC_ERR_TIMEOUT, "no frame in %llu ms", (unsigned long long)timeout_ms);
}

GENTL EventGetDataInfo(void *handle, const void *data, size_t data_size, int32_t command, int32_t *type, void *buffer, size_t *size) {
    struct answer answer = {type, buffer, size};
    struct new_buffer_data event;
    if (!camera_of_event(handle))
        return invalid("event");
    if (!data || data_size < sizeof event)
        return fail(GC_ERR_INVALID_PARAMETER, "not the data of a new buffer");
    memcpy(&event, data, sizeof event);
    switch (command) {
    case EVENT_DATA_ID: return put_pointer(answer, event.buffer);
    case EVENT_DATA_VALUE: return put_pointer(answer, event.user);
    default: return not_available(command);
    }
}

static GC_ERROR event_info(const struct stream *stream, int32_t command, struct answer answer) {
    switch (command) {
    case EVENT_TYPE: return put_int32(answer, EVENT_NEW_BUFFER);
    case EVENT_NUM_IN_QUEUE: return put_size(answer, count(stream, READY));
    case EVENT_NUM_FIRED: return put_uint64(answer, stream->fired);
    case EVENT_SIZE_MAX: return put_size(answer, sizeof(struct new_buffer_data));
    case EVENT_DATA_SIZE_MAX: return put_size(answer, sizeof(void *));
    default: return not_available(command);
    }
}

GENTL EventGetInfo(void *handle, int32_t command, int32_t *type, void *buffer, size_t *size) {
    struct camera *camera = camera_of_event(handle);
    if (!camera)
        return invalid("event");
    pthread_mutex_lock(&camera->lock);
    GC_ERROR error = event_info(&camera->stream, command, (struct answer){type, buffer, size});
    pthread_mutex_unlock(&camera->lock);
    return error;
}

GENTL EventFlush(void *handle) {
    struct camera *camera = camera_of_event(handle);
    return camera ? DSFlushQueue(&camera->stream, FLUSH_OUTPUT_DISCARD) : invalid("event");
}

GENTL EventKill(void *handle) {
    struct camera *camera = camera_of_event(handle);
    if (!camera)
        return invalid("event");
    pthread_mutex_lock(&camera->lock);
    camera->stream.killed = true;
    pthread_cond_broadcast(&camera->changed);
    pthread_mutex_unlock(&camera->lock);
    return GC_ERR_SUCCESS;
}
