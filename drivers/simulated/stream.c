/* The exported functions of GenTL for a data stream: its buffers, its statistics, and the event of a new buffer. */
#include "producer.h"

#include <string.h>

static struct buffer *buffer_of(struct camera *camera, void *handle) {
    for (struct buffer *buffer = camera->stream.buffers; buffer < camera->stream.buffers + BUFFERS_MAX; buffer++)
        if (handle == buffer && buffer->state != ABSENT)
            return buffer;
    return NULL;
}

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
    GC_ERROR error = enter(camera, CALL_REVOKE);
    if (error)
        return error;
    pthread_mutex_lock(&camera->lock);
    bool idle = buffer->state == UNQUEUED;
    if (idle) {
        bool forgotten = strikes(camera, NULL_REVOKE);
        if (memory)
            *memory = forgotten ? NULL : buffer->memory;
        if (user)
            *user = forgotten ? NULL : buffer->user;
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
    GC_ERROR error = enter(camera, CALL_QUEUE);
    if (error)
        return error;
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
        if (operation == FLUSH_INPUT_TO_OUTPUT && input) {
            buffer->arrives_ns = 0;
            set_state(&camera->stream, buffer, READY);
        } else if ((operation == FLUSH_OUTPUT_DISCARD && output) || (operation == FLUSH_ALL_DISCARD && (input || output)))
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
    GC_ERROR error = enter(camera, CALL_START);
    if (error)
        return error;
    pthread_mutex_lock(&camera->lock);
    struct stream *stream = &camera->stream;
    bool running = stream->running;
    if (!running) {
        stream->running = true;
        stream->delivered = stream->underruns = stream->started = stream->lost = stream->incomplete = 0;
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
    GC_ERROR error = enter(camera, CALL_STOP);
    if (error)
        return error;
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
    case DS_TLTYPE: return put_string(answer, transport_of(camera));
    case DS_CHUNKS_MAX: return put_size(answer, CHUNKS);
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
    bool in_ns = camera->conditions.clock_hz == 0;
    switch (command) {
    case BUF_BASE: return put_pointer(answer, buffer->memory);
    case BUF_SIZE: return put_size(answer, buffer->size);
    case BUF_USER_PTR: return put_pointer(answer, buffer->user);
    case BUF_TIMESTAMP: return buffer->timed ? put_uint64(answer, buffer->timestamp) : not_available(command);
    case BUF_TIMESTAMP_NS: return buffer->timed && in_ns ? put_uint64(answer, buffer->timestamp) : not_available(command);
    case BUF_NEW_DATA:
    case BUF_IMAGEPRESENT: return put_bool(answer, buffer->new_data);
    case BUF_IS_QUEUED: return put_bool(answer, buffer->state == QUEUED || buffer->state == READY);
    case BUF_IS_ACQUIRING: return put_bool(answer, buffer->state == FILLING);
    case BUF_IS_INCOMPLETE: return put_bool(answer, buffer->incomplete);
    case BUF_DATA_LARGER: return put_bool(answer, buffer->larger);
    case BUF_TLTYPE: return put_string(answer, transport_of(camera));
    case BUF_SIZE_FILLED:
    case BUF_DATA_SIZE: return put_size(answer, buffer->filled);
    case BUF_WIDTH: return put_size(answer, (size_t)buffer->region.width);
    case BUF_HEIGHT: return put_size(answer, (size_t)buffer->region.height);
    case BUF_DELIVERED_HEIGHT: return put_size(answer, (size_t)smaller(buffer->region.height, buffer->height_sent));
    case BUF_XOFFSET: return put_size(answer, (size_t)buffer->region.x);
    case BUF_YOFFSET: return put_size(answer, (size_t)buffer->region.y);
    case BUF_XPADDING:
    case BUF_YPADDING:
    case BUF_IMAGEOFFSET: return put_size(answer, 0);
    case BUF_FRAMEID: return put_uint64(answer, buffer->frame_id);
    case BUF_PAYLOADTYPE: return put_size(answer, PAYLOAD_TYPE_IMAGE);
    case BUF_PIXELFORMAT: return put_uint64(answer, buffer->format);
    case BUF_PIXELFORMAT_NAMESPACE: return put_uint64(answer, NAMESPACE_PFNC_32BIT);
    case BUF_CONTAINS_CHUNKDATA: return put_bool(answer, buffer->chunks);
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
        return is_module(handle) ? fail(GC_ERR_NOT_IMPLEMENTED, "this module has no event %d", (int)event_type) : invalid("module");
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
    GC_ERROR error = enter(camera, CALL_FETCH);
    if (error)
        return error;
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
