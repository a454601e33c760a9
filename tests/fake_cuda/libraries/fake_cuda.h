/* What the stand-ins for CUDA's libraries share.
 *
 * Device memory is host memory and a kernel does nothing, but each launch, call, copy, wait and allocation is written to
 * a log. The real CUDA provider of ONNX Runtime runs on them, so what it asks for is real; numbers and times are not.
 *
 * FAKE_CUDA_SM      compute capability times 10, such as 90
 * FAKE_CUDA_GPUS    how many GPUs there are
 * FAKE_CUDA_MEMORY  bytes of each GPU; an allocation beyond them fails
 * FAKE_CUDA_NAME    what the GPUs are called
 * FAKE_CUDA_NUMBER  what a single 64-bit number is when it is copied to the host, which may branch on it
 * FAKE_CUDA_LOG     the file that the log is appended to
 */
#pragma once

#include <cuda_runtime_api.h>
#include <stddef.h>

enum work { LAUNCH, CALL, COPY, SET };

/* Writes a line to the log, as printf does. */
void fake_log(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Begins a section of the log. Tests call it through ctypes. */
void fake_mark(const char *text);

/* Writes down work for a stream: done now, or added to the graph that the stream is captured into.
 * A stream of another GPU than the current one is an error, as it is in CUDA. */
cudaError_t fake_work(enum work kind, cudaStream_t stream, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* A call of a library such as cuBLAS. */
cudaError_t fake_call(const char *name, cudaStream_t stream);

/* Remembers the error for cudaGetLastError, writes it down, and returns it. */
cudaError_t fake_fail(const char *function, cudaError_t error);

/* What CUDA forbids while a stream is captured, such as waiting: the error, after which the capture is lost.
 * A wait that is not for one stream, and an allocation, concern the captures of all streams. */
cudaError_t fake_forbidden(const char *function, cudaStream_t stream);
#define EVERY_STREAM ((cudaStream_t) - 1)

/* The current GPU of this thread, and how many there are. */
int fake_device(void);
int fake_devices(void);

/* The memory of each GPU in bytes, and how much of it is taken. */
size_t fake_memory(void);
size_t fake_taken(int device);

/* The number in an environment variable, or what it is without one. */
unsigned long long fake_setting(const char *name, unsigned long long otherwise);
