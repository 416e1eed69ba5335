/* The exported functions of GenTL for ports: which module a handle is, its registers and its description. */
#define _GNU_SOURCE
#include "producer.h"

#include <stdio.h>
#include <string.h>

/* Registers of interface and stream, 8 bytes each, in the order of interface.xml and stream.xml. */
enum { DEVICE_SELECTOR, DEVICE_SELECTOR_MAX, INTERFACE_REGISTERS };
enum { STREAM_DELIVERED, STREAM_LOST, STREAM_INCOMPLETE, STREAM_RESENT, STREAM_NO_BUFFER, STREAM_STATISTICS };
enum { DEVICE_ID, DEVICE_SERIAL, DEVICE_USER, DEVICE_DISPLAY, DEVICE_MAC, DEVICE_STRINGS };

struct module {
    const char *id, *kind, *port;
    bool has_registers;
    const char *file, *description;
    size_t description_size;
};

/* Which module a port's handle belongs to; its id is NULL when none. */
static struct module module_of(const void *handle) {
    struct camera *camera;
    struct module module = {0};
    if ((camera = camera_of_port(handle)))
        return (struct module){camera->id, "TLRemoteDevice", "Device", true, "camera.xml", camera->description, camera->description_size};
    if (is_system(handle))
        return (struct module){.id = PRODUCER, .kind = "TLSystem", .port = "TLPort"};
    if ((camera = camera_of_device(handle)))
        return (struct module){.id = camera->id, .kind = "TLDevice", .port = "DevicePort"};
    if (is_interface(handle)) {
        module = (struct module){INTERFACE, "TLInterface", "InterfacePort", has_module_maps(), "interface.xml", interface_xml,
                                 (size_t)(interface_xml_end - interface_xml)};
    } else if ((camera = camera_of_stream(handle))) {
        module = (struct module){STREAM, "TLDataStream", "StreamPort", camera->profile->module_maps, "stream.xml", stream_xml,
                                 (size_t)(stream_xml_end - stream_xml)};
    }
    return module;
}

bool is_module(const void *handle) { return module_of(handle).id != NULL; }

GENTL GCGetPortInfo(void *handle, int32_t command, int32_t *type, void *buffer, size_t *size) {
    struct answer answer = {type, buffer, size};
    struct module module = module_of(handle);
    struct camera *camera = camera_of_port(handle);
    if (!module.id)
        return invalid("port");
    switch (command) {
    case PORT_ID: return put_string(answer, module.id);
    case PORT_VENDOR: return put_string(answer, camera ? camera->model->vendor : PRODUCER_VENDOR);
    case PORT_MODEL: return put_string(answer, camera ? camera->model->name : PRODUCER);
    case PORT_TLTYPE: return put_string(answer, camera ? transport_of(camera) : "Custom");
    case PORT_MODULE: return put_string(answer, module.kind);
    case PORT_LITTLE_ENDIAN: return put_bool(answer, 1);
    case PORT_BIG_ENDIAN: return put_bool(answer, 0);
    case PORT_READ:
    case PORT_WRITE: return put_bool(answer, module.has_registers);
    case PORT_NA: return put_bool(answer, 0);
    case PORT_NI: return put_bool(answer, !module.has_registers);
    case PORT_VERSION: return put_string(answer, PRODUCER_VERSION);
    case PORT_NAME: return put_string(answer, module.port);
    default: return not_available(command);
    }
}

/* Copies a part of what lies at `base`. */
static GC_ERROR read_area(const void *area, size_t area_size, uint64_t base, uint64_t address, void *data, size_t size) {
    if (address < base || address - base > area_size || size > area_size - (address - base))
        return fail(GC_ERR_INVALID_ADDRESS, "nothing to read at 0x%llx, %zu bytes", (unsigned long long)address, size);
    memcpy(data, (const uint8_t *)area + (address - base), size);
    return GC_ERR_SUCCESS;
}

/* ---------------------------------------------------------------- the interface: its list of devices */

static _Atomic int64_t selected_device;

static GC_ERROR read_interface(uint64_t address, void *data, size_t size) {
    if (address < STRING_BASE) {
        int64_t last = 0;
        while (present_camera((uint32_t)last + 1))
            last++;
        int64_t registers[INTERFACE_REGISTERS] = {[DEVICE_SELECTOR] = selected_device, [DEVICE_SELECTOR_MAX] = last};
        return read_area(registers, sizeof registers, REGISTER_BASE, address, data, size);
    }
    struct camera *camera = present_camera((uint32_t)selected_device);
    char strings[DEVICE_STRINGS][STRING_SIZE] = {0};
    if (camera) {
        snprintf(strings[DEVICE_ID], STRING_SIZE, "%s", camera->id);
        snprintf(strings[DEVICE_SERIAL], STRING_SIZE, "%s", camera->model->serial);
        pthread_mutex_lock(&camera->lock);
        memcpy(strings[DEVICE_USER], camera->strings[USER_ID], STRING_SIZE);
        pthread_mutex_unlock(&camera->lock);
        snprintf(strings[DEVICE_DISPLAY], STRING_SIZE, "%s", camera->model->display);
        snprintf(strings[DEVICE_MAC], STRING_SIZE, "%s", camera->model->mac);
    }
    return read_area(strings, sizeof strings, STRING_BASE, address, data, size);
}

static GC_ERROR write_interface(uint64_t address, const void *data, size_t size) {
    int64_t value;
    if (address != REGISTER_BASE + DEVICE_SELECTOR * sizeof value || size != sizeof value)
        return fail(GC_ERR_INVALID_ADDRESS, "nothing to write at 0x%llx, %zu bytes", (unsigned long long)address, size);
    memcpy(&value, data, sizeof value);
    if (value < 0 || value >= MODELS || !present_camera((uint32_t)value))
        return fail(GC_ERR_INVALID_VALUE, "there is no device %lld", (long long)value);
    selected_device = value;
    return GC_ERR_SUCCESS;
}

/* ---------------------------------------------------------------- the stream: its statistics */

static GC_ERROR read_stream(struct camera *camera, uint64_t address, void *data, size_t size) {
    const struct stream *stream = &camera->stream;
    uint64_t registers[STREAM_STATISTICS + STREAM_SETTINGS];
    pthread_mutex_lock(&camera->lock);
    registers[STREAM_DELIVERED] = stream->delivered;
    registers[STREAM_LOST] = stream->lost + stream->underruns;
    registers[STREAM_INCOMPLETE] = stream->incomplete;
    registers[STREAM_RESENT] = 0;
    registers[STREAM_NO_BUFFER] = stream->underruns;
    memcpy(registers + STREAM_STATISTICS, camera->stream_settings, sizeof camera->stream_settings);
    pthread_mutex_unlock(&camera->lock);
    return read_area(registers, sizeof registers, REGISTER_BASE, address, data, size);
}

static GC_ERROR write_stream(struct camera *camera, uint64_t address, const void *data, size_t size) {
    const uint64_t first = REGISTER_BASE + STREAM_STATISTICS * sizeof(int64_t);
    uint64_t index = (address - first) / sizeof(int64_t);
    if (address < first || address % sizeof(int64_t) || index >= STREAM_SETTINGS || size != sizeof(int64_t))
        return fail(GC_ERR_INVALID_ADDRESS, "nothing to write at 0x%llx, %zu bytes", (unsigned long long)address, size);
    pthread_mutex_lock(&camera->lock);
    memcpy(&camera->stream_settings[index], data, size);
    pthread_mutex_unlock(&camera->lock);
    return GC_ERR_SUCCESS;
}

/* ---------------------------------------------------------------- reading and writing */

static GC_ERROR access_camera(struct camera *camera, uint64_t address, void *to, const void *from, size_t size) {
    GC_ERROR error = enter(camera, to ? CALL_READ : CALL_WRITE);
    if (error)
        return error;
    pthread_mutex_lock(&camera->lock);
    error = camera->lost ? fail(GC_ERR_IO, "%s does not answer", camera->model->serial)
            : to         ? read_port(camera, address, to, size)
                         : write_port(camera, address, from, size);
    pthread_mutex_unlock(&camera->lock);
    return error;
}

GENTL GCReadPort(void *handle, uint64_t address, void *buffer, size_t *size) {
    struct module module = module_of(handle);
    if (!module.has_registers)
        return module.id ? fail(GC_ERR_INVALID_ADDRESS, "this module has no registers") : invalid("port");
    if (!size || !buffer)
        return fail(GC_ERR_INVALID_PARAMETER, "nothing to read to");
    if (address >= XML_BASE && address - XML_BASE <= module.description_size && *size <= module.description_size - (address - XML_BASE)) {
        memcpy(buffer, module.description + (address - XML_BASE), *size);
        return GC_ERR_SUCCESS;
    }
    if (is_interface(handle))
        return read_interface(address, buffer, *size);
    struct camera *camera = camera_of_stream(handle);
    return camera ? read_stream(camera, address, buffer, *size) : access_camera(camera_of_port(handle), address, buffer, NULL, *size);
}

GENTL GCWritePort(void *handle, uint64_t address, const void *buffer, size_t *size) {
    struct module module = module_of(handle);
    if (!module.has_registers)
        return module.id ? fail(GC_ERR_INVALID_ADDRESS, "this module has no registers") : invalid("port");
    if (!size || !buffer)
        return fail(GC_ERR_INVALID_PARAMETER, "nothing to write from");
    if (is_interface(handle))
        return write_interface(address, buffer, *size);
    struct camera *camera = camera_of_stream(handle);
    return camera ? write_stream(camera, address, buffer, *size) : access_camera(camera_of_port(handle), address, NULL, buffer, *size);
}

GENTL GCGetNumPortURLs(void *handle, uint32_t *urls) {
    if (!module_of(handle).has_registers) /* also asked of devices that are not open; a module without a description must not answer 0 */
        return fail(GC_ERR_NOT_AVAILABLE, "this module has no description");
    *urls = 1;
    return GC_ERR_SUCCESS;
}

GENTL GCGetPortURLInfo(void *handle, uint32_t index, int32_t command, int32_t *type, void *buffer, size_t *size) {
    struct answer answer = {type, buffer, size};
    struct module module = module_of(handle);
    if (!module.has_registers)
        return invalid("port with a description");
    if (index != 0)
        return fail(GC_ERR_INVALID_INDEX, "there is one description");
    char url[96];
    snprintf(url, sizeof url, "local:///%s;%X;%zX?SchemaVersion=1.1.0", module.file, (unsigned)XML_BASE, module.description_size);
    switch (command) {
    case URL_URL: return put_string(answer, url);
    case URL_SCHEMA_MAJOR:
    case URL_SCHEMA_MINOR:
    case URL_MAJOR: return put_int32(answer, 1);
    case URL_MINOR:
    case URL_SUBMINOR:
    case URL_SCHEME: return put_int32(answer, 0);
    case URL_ADDRESS: return put_uint64(answer, XML_BASE);
    case URL_SIZE: return put_uint64(answer, module.description_size);
    case URL_FILENAME: return put_string(answer, module.file);
    default: return not_available(command);
    }
}

GENTL GCGetPortURL(void *handle, char *url, size_t *size) { return GCGetPortURLInfo(handle, 0, URL_URL, NULL, url, size); }

NOT_IMPLEMENTED(GCReadPortStacked)
NOT_IMPLEMENTED(GCWritePortStacked)

