/* Streams, events, and the capture of graphs. */
#include "fake_cuda.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* A graph, or one that is being captured. Graphs are few and small: they stay until the process ends, so that a stream or
 * an event can always ask whether its capture goes on. */
struct graph {
    unsigned work[4]; /* of each kind */
    enum cudaStreamCaptureMode mode;
    pthread_t thread;
    int is_open, is_lost;
    struct graph *next; /* of all graphs */
};

struct stream {
    int device;
    struct graph *graph; /* that it was last captured into */
};

struct event {
    struct graph *graph; /* of the work that it stands for, if that was captured */
};

static struct graph *graphs;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* The default streams have numbers for handles. They belong to the current GPU and are never captured. */
static struct stream *of(cudaStream_t handle) { return (size_t)handle > 2 ? (struct stream *)handle : NULL; }

/* The graph that a stream is captured into now, or NULL. */
static struct graph *captured(cudaStream_t handle) {
    struct stream *stream = of(handle);
    return stream && stream->graph && stream->graph->is_open ? stream->graph : NULL;
}

static const char *const names[] = {[LAUNCH] = "LAUNCH", [CALL] = "CALL", [COPY] = "COPY", [SET] = "SET"};

cudaError_t fake_work(enum work kind, cudaStream_t handle, const char *format, ...) {
    char text[256];
    va_list values;
    struct stream *stream = of(handle);
    if (!fake_devices())
        return fake_fail(names[kind], cudaErrorNoDevice);
    if (stream && stream->device != fake_device())
        return fake_fail(names[kind], cudaErrorInvalidResourceHandle);
    va_start(values, format);
    vsnprintf(text, sizeof text, format, values);
    va_end(values);
    pthread_mutex_lock(&lock);
    struct graph *graph = captured(handle);
    if (graph)
        graph->work[kind]++;
    pthread_mutex_unlock(&lock);
    fake_log("%s%s %d %s", graph ? "CAPTURED " : "", names[kind], fake_device(), text);
    return cudaSuccess;
}

cudaError_t fake_call(const char *name, cudaStream_t stream) { return fake_work(CALL, stream, "%s", name); }

cudaError_t fake_forbidden(const char *function, cudaStream_t stream) {
    int found = 0;
    pthread_mutex_lock(&lock);
    if (stream == EVERY_STREAM || !of(stream)) {
        for (struct graph *graph = graphs; graph; graph = graph->next)
            if (graph->is_open && (graph->mode == cudaStreamCaptureModeGlobal ||
                                   (graph->mode == cudaStreamCaptureModeThreadLocal &&
                                    pthread_equal(graph->thread, pthread_self()))))
                found = graph->is_lost = 1;
    } else if (captured(stream)) {
        found = captured(stream)->is_lost = 1;
    }
    pthread_mutex_unlock(&lock);
    return found ? fake_fail(function, cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}

static cudaError_t make_stream(const char *function, cudaStream_t *stream) {
    if (!fake_devices())
        return fake_fail(function, cudaErrorNoDevice);
    struct stream *made = calloc(1, sizeof *made);
    made->device = fake_device();
    *stream = (cudaStream_t)made;
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *stream) { return make_stream(__func__, stream); }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) { return make_stream(__func__, stream); }

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    free(of(stream));
    return cudaSuccess;
}

static cudaError_t wait_for(const char *function, const char *what, cudaStream_t stream) {
    cudaError_t error = fake_forbidden(function, stream);
    fake_log("WAIT %s", what);
    return error;
}

cudaError_t cudaDeviceSynchronize(void) { return wait_for(__func__, "device", EVERY_STREAM); }
cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return wait_for(__func__, "stream", stream); }
cudaError_t cudaStreamQuery(cudaStream_t stream) { return fake_forbidden(__func__, stream); }

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
    *event = calloc(1, sizeof(struct event));
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event) { return cudaEventCreateWithFlags(event, 0); }

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    free(event);
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    ((struct event *)event)->graph = captured(stream);
    return cudaSuccess;
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags) {
    return cudaEventRecord(event, stream);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    fake_log("WAIT event");
    struct graph *graph = ((struct event *)event)->graph;
    if (!graph || !graph->is_open)
        return cudaSuccess;
    graph->is_lost = 1;
    return fake_fail(__func__, cudaErrorStreamCaptureUnsupported);
}

cudaError_t cudaEventQuery(cudaEvent_t event) { return cudaSuccess; }

/* Nothing here takes time. */
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end) {
    *milliseconds = 0;
    return cudaSuccess;
}

/* A stream that waits for captured work is captured into the same graph. */
cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned flags) {
    struct graph *graph = ((struct event *)event)->graph;
    struct stream *stream = of(handle);
    if (stream && graph && graph->is_open)
        stream->graph = graph;
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, enum cudaStreamCaptureMode mode) {
    struct stream *stream = of(handle);
    if (!stream || captured(handle))
        return fake_fail(__func__, cudaErrorStreamCaptureUnsupported);
    struct graph *graph = calloc(1, sizeof *graph);
    *graph = (struct graph){.mode = mode, .thread = pthread_self(), .is_open = 1};
    pthread_mutex_lock(&lock);
    graph->next = graphs;
    graphs = graph;
    stream->graph = graph;
    pthread_mutex_unlock(&lock);
    fake_log("CAPTURE begin");
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *made) {
    struct graph *graph = captured(stream);
    *made = NULL;
    if (!graph)
        return fake_fail(__func__, cudaErrorInvalidValue);
    graph->is_open = 0;
    fake_log("CAPTURE %s", graph->is_lost ? "lost" : "end");
    if (graph->is_lost)
        return fake_fail(__func__, cudaErrorStreamCaptureInvalidated);
    *made = (cudaGraph_t)graph;
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
    struct graph *graph = captured(stream);
    *status = !graph           ? cudaStreamCaptureStatusNone
              : graph->is_lost ? cudaStreamCaptureStatusInvalidated
                               : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *made, cudaGraph_t graph, unsigned long long flags) {
    *made = (cudaGraphExec_t)graph;
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
    unsigned *it = ((struct graph *)executable)->work;
    if (of(stream) && of(stream)->device != fake_device())
        return fake_fail(__func__, cudaErrorInvalidResourceHandle);
    fake_log("REPLAY %d %u %u %u %u", fake_device(), it[LAUNCH], it[CALL], it[COPY], it[SET]);
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) { return cudaSuccess; }

/* There is nothing that the host's function would have to wait for. */
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *data) {
    function(data);
    return cudaSuccess;
}
