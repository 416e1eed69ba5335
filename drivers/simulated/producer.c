/* The exported functions of GenTL for the library, the system, its interface and its devices. camera.h tells what is where. */
#define _GNU_SOURCE
#include "producer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct {
    bool initialized, open, interface_open;
    int directory;
    struct camera cameras[MODELS];
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

/* Every information is asked for twice: without a buffer for its size, then with one. */
GC_ERROR put(struct answer answer, int32_t type, const void *value, size_t size) {
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

GC_ERROR put_string(struct answer answer, const char *text) { return put(answer, TYPE_STRING, text, strlen(text) + 1); }

GC_ERROR not_available(int32_t command) { return fail(GC_ERR_NOT_AVAILABLE, "information %d is not available", (int)command); }

GC_ERROR invalid(const char *what) {
    return library.initialized ? fail(GC_ERR_INVALID_HANDLE, "not an open %s", what)
                               : fail(GC_ERR_NOT_INITIALIZED, "GCInitLib was not called");
}

bool is_system(const void *handle) { return library.open && handle == &library; }
bool is_interface(const void *handle) { return library.interface_open && handle == &library.interface_open; }

#define FIND_CAMERA(condition)                                                                        \
    for (struct camera *camera = library.cameras; camera < library.cameras + MODELS; camera++)       \
        if (condition)                                                                                \
            return camera;                                                                            \
    return NULL

static struct camera *camera_of_id(const char *id) { FIND_CAMERA(id && camera->present && strcmp(id, camera->id) == 0); }
struct camera *present_camera(uint32_t index) { FIND_CAMERA(camera->present && index-- == 0); }
struct camera *camera_of_device(const void *handle) { FIND_CAMERA(camera->open && handle == camera); }
struct camera *camera_of_port(const void *handle) { FIND_CAMERA(camera->open && handle == &camera->port); }
struct camera *camera_of_stream(const void *handle) { FIND_CAMERA(camera->stream.open && handle == &camera->stream); }
struct camera *camera_of_event(const void *handle) {
    FIND_CAMERA(camera->stream.registered && handle == &camera->stream.registered);
}

bool has_module_maps(void) {
    for (int i = 0; i < MODELS; i++)
        if (library.cameras[i].profile->module_maps)
            return true;
    return false;
}

const char *transport_of(const struct camera *camera) {
    return camera->profile->transport ? camera->profile->transport : camera->model->transport;
}

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

static void forget_cameras(void) {
    for (int i = 0; i < MODELS; i++)
        forget_camera(&library.cameras[i]);
    close(library.directory);
}

GENTL GCInitLib(void) {
    if (library.initialized)
        return fail(GC_ERR_RESOURCE_IN_USE, "GCInitLib was called already");
    memset(&library, 0, sizeof library);
    GC_ERROR error = open_directory();
    if (error)
        return error;
    for (int i = 0; i < MODELS; i++)
        prepare_camera(&library.cameras[i], &models[i], library.directory);
    error = choose_profiles(library.cameras);
    for (int i = 0; i < MODELS && !error; i++)
        error = describe(&library.cameras[i]) ? GC_ERR_SUCCESS : fail(GC_ERR_OUT_OF_MEMORY, "no memory for a description");
    if (error)
        forget_cameras();
    library.initialized = !error;
    return error;
}

GENTL GCCloseLib(void) {
    if (!library.initialized)
        return invalid("library");
    forget_cameras();
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
    case TL_VENDOR: return put_string(answer, PRODUCER_VENDOR);
    case TL_VERSION: return put_string(answer, PRODUCER_VERSION);
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
    for (struct camera *camera = library.cameras; camera < library.cameras + MODELS; camera++) {
        bool present = plugged(camera);
        pthread_mutex_lock(&camera->lock);
        if (!camera->open)
            renew_conditions(camera);
        pthread_mutex_unlock(&camera->lock);
        GC_ERROR error = enter(camera, CALL_UPDATE);
        if (error)
            return error;
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
    for (*devices = 0; present_camera(*devices);)
        ++*devices;
    return GC_ERR_SUCCESS;
}

GENTL IFGetDeviceID(void *handle, uint32_t index, char *id, size_t *size) {
    if (!is_interface(handle))
        return invalid("interface");
    struct camera *camera = present_camera(index);
    return camera ? put_string((struct answer){NULL, id, size}, camera->id)
                  : fail(GC_ERR_INVALID_INDEX, "there are not so many devices");
}

static GC_ERROR locked_device_info(struct camera *camera, int32_t command, struct answer answer) {
    switch (command) {
    case DEV_ID: return put_string(answer, camera->id);
    case DEV_SERIAL:
        return strikes(camera, NO_SERIAL) ? fail(GC_ERR_NOT_IMPLEMENTED, "the serial number is not told here")
                                          : put_string(answer, camera->model->serial);
    case DEV_VENDOR: return put_string(answer, camera->model->vendor);
    case DEV_MODEL: return put_string(answer, camera->model->name);
    case DEV_TLTYPE: return put_string(answer, transport_of(camera));
    case DEV_DISPLAYNAME: return put_string(answer, camera->model->display);
    case DEV_ACCESS: return put_int32(answer, access_status(camera));
    case DEV_USER_NAME: return put_string(answer, camera->strings[USER_ID]);
    case DEV_VERSION: return put_string(answer, PRODUCER_VERSION);
    case DEV_TIMESTAMP_HZ: return put_uint64(answer, camera->conditions.clock_hz ? camera->conditions.clock_hz : 1000000000);
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
    GC_ERROR error = enter(camera, CALL_CLOSE);
    close_camera(camera); /* whatever is said */
    return error;
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

