/* What the exported functions of GenTL share: answers to questions, and whose a handle is. */
#pragma once
#include "camera.h"

#define GENTL __attribute__((visibility("default"))) GC_ERROR

/* Declared without arguments, for none is looked at. */
#define NOT_IMPLEMENTED(function) \
    GENTL function(void) { return fail(GC_ERR_NOT_IMPLEMENTED, #function " is not implemented"); }

#define PRODUCER "Simulated cameras"
#define PRODUCER_VENDOR "Station"
#define PRODUCER_VERSION "2.0.0"
#define INTERFACE "simulated"
#define STREAM "stream0"

/* Every information is asked for twice: without a buffer for its size, then with one. */
struct answer {
    int32_t *type;
    void *buffer;
    size_t *size;
};
GC_ERROR put(struct answer answer, int32_t type, const void *value, size_t size);
GC_ERROR put_string(struct answer answer, const char *text);
static inline GC_ERROR put_int32(struct answer answer, int32_t value) { return put(answer, TYPE_INT32, &value, sizeof value); }
static inline GC_ERROR put_uint32(struct answer answer, uint32_t value) { return put(answer, TYPE_UINT32, &value, sizeof value); }
static inline GC_ERROR put_uint64(struct answer answer, uint64_t value) { return put(answer, TYPE_UINT64, &value, sizeof value); }
static inline GC_ERROR put_size(struct answer answer, size_t value) { return put(answer, TYPE_SIZET, &value, sizeof value); }
static inline GC_ERROR put_pointer(struct answer answer, void *value) { return put(answer, TYPE_PTR, &value, sizeof value); }
static inline GC_ERROR put_bool(struct answer answer, bool8_t value) { return put(answer, TYPE_BOOL8, &value, sizeof value); }
GC_ERROR not_available(int32_t command);
GC_ERROR invalid(const char *what);

bool is_system(const void *handle);
bool is_interface(const void *handle);
struct camera *present_camera(uint32_t index); /* NULL: there are not so many plugged in */
struct camera *camera_of_device(const void *handle);
struct camera *camera_of_port(const void *handle);
struct camera *camera_of_stream(const void *handle);
struct camera *camera_of_event(const void *handle);
bool is_module(const void *handle); /* of any kind */
bool has_module_maps(void); /* of interface and streams */
const char *transport_of(const struct camera *camera);
