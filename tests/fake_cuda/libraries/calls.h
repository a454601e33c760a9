/* Entry points of libraries that compute with handles, such as cuBLAS. All return the status 0, success. */
#pragma once

#include "fake_cuda.h"

#include <stdlib.h>

/* What a library's handle points to. */
struct handle {
    cudaStream_t stream;
};

/* A call that works on the GPU: it is logged for the stream of the handle, which all take first. */
#define WORK(name) int name(struct handle *handle) { return fake_call(#name, handle->stream); }
#define SET_STREAM(name) int name(struct handle *handle, cudaStream_t stream) { return handle->stream = stream, 0; }
/* Calls that make and destroy a handle or a descriptor. */
#define CREATE(name) int name(void **made) { return (*made = calloc(1, sizeof(struct handle))) ? 0 : 1; }
#define DESTROY(name) int name(void *made) { return free(made), 0; }
#define MADE(before, after) CREATE(before##Create##after) DESTROY(before##Destroy##after)
/* A call that only sets something on the host. */
#define NOTHING(name) int name(void) { return 0; }
/* What no decoder has a use for: whoever calls it is told that it is not supported. */
#define NOT_SUPPORTED(name) int name(void) { return 3000; }
