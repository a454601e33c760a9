/* The log, and errors. */
#include "fake_cuda.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int file = -1;
static __thread cudaError_t last;

static void open_log(void) {
    const char *path = getenv("FAKE_CUDA_LOG");
    if (path)
        file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
}

void fake_log(const char *format, ...) {
    char line[1024];
    va_list values;
    pthread_once(&once, open_log);
    if (file < 0)
        return;
    va_start(values, format);
    int length = vsnprintf(line, sizeof line - 1, format, values);
    va_end(values);
    if (length > (int)sizeof line - 2)
        length = sizeof line - 2;
    line[length++] = '\n';
    /* One write a line, so that lines of threads and of processes do not mix. */
    if (write(file, line, length) != length)
        abort();
}

void fake_mark(const char *text) { fake_log("MARK %s", text); }

unsigned long long fake_setting(const char *name, unsigned long long otherwise) {
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 10) : otherwise;
}

cudaError_t fake_fail(const char *function, cudaError_t error) {
    fake_log("ERROR %s %d", function, error);
    return last = error;
}

cudaError_t cudaGetLastError(void) {
    cudaError_t error = last;
    last = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError(void) { return last; }

/* The errors that the stand-ins know, in CUDA's words. */
#define KNOWN(error, text) {error, #error, text}
static const struct {
    cudaError_t error;
    const char *name, *text;
} errors[] = {
    KNOWN(cudaErrorUnknown, "unknown error"), /* and all others */
    KNOWN(cudaSuccess, "no error"),
    KNOWN(cudaErrorInvalidValue, "invalid argument"),
    KNOWN(cudaErrorMemoryAllocation, "out of memory"),
    KNOWN(cudaErrorNoDevice, "no CUDA-capable device is detected"),
    KNOWN(cudaErrorInvalidDevice, "invalid device ordinal"),
    KNOWN(cudaErrorInvalidResourceHandle, "invalid resource handle"),
    KNOWN(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing"),
    KNOWN(cudaErrorStreamCaptureInvalidated, "operation failed due to a previous error during capture"),
};

static int place(cudaError_t error) {
    int place = sizeof errors / sizeof *errors;
    while (--place && errors[place].error != error)
        ;
    return place;
}

const char *cudaGetErrorName(cudaError_t error) { return errors[place(error)].name; }
const char *cudaGetErrorString(cudaError_t error) { return errors[place(error)].text; }
