/* Memory of GPUs and page-locked memory of the host, copies, and memory pools. */
#include "fake_cuda.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { HOST = -1, PAGE_LOCKED = -2 }; /* instead of a GPU's number */

static struct block {
    char *start;
    size_t bytes;
    int device;
} *blocks;
static size_t count, room, taken[64];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

size_t fake_taken(int device) {
    pthread_mutex_lock(&lock);
    size_t bytes = taken[device];
    pthread_mutex_unlock(&lock);
    return bytes;
}

/* The block that an address lies in, or NULL; the lock is held. */
static struct block *find(const void *address) {
    for (size_t i = count; i-- > 0;)
        if ((const char *)address >= blocks[i].start && (const char *)address < blocks[i].start + blocks[i].bytes)
            return &blocks[i];
    return NULL;
}

static int place(const void *address) {
    pthread_mutex_lock(&lock);
    struct block *block = find(address);
    int device = block ? block->device : HOST;
    pthread_mutex_unlock(&lock);
    return device;
}

static cudaError_t allocate(const char *function, void **address, size_t bytes, int device) {
    *address = NULL;
    if (device >= 0 && !fake_devices())
        return fake_fail(function, cudaErrorNoDevice);
    if (!bytes)
        return cudaSuccess;
    pthread_mutex_lock(&lock);
    int fits = device < 0 || taken[device] + bytes <= fake_memory();
    /* Pages come when they are touched, so that a big GPU fits into a small machine. */
    char *start = fits ? mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
                       : MAP_FAILED;
    if (start != MAP_FAILED) {
        if (count == room)
            blocks = realloc(blocks, (room = room ? 2 * room : 256) * sizeof *blocks);
        blocks[count++] = (struct block){start, bytes, device};
        if (device >= 0)
            taken[device] += bytes;
        *address = start;
    }
    pthread_mutex_unlock(&lock);
    if (device >= 0 && *address)
        fake_log("ALLOCATION %d %zu", device, bytes);
    return *address ? cudaSuccess : fake_fail(function, cudaErrorMemoryAllocation);
}

static cudaError_t release(const char *function, void *address) {
    if (!address)
        return cudaSuccess;
    pthread_mutex_lock(&lock);
    struct block *block = find(address);
    struct block it = block ? *block : (struct block){0};
    if (it.start == address) {
        if (it.device >= 0)
            taken[it.device] -= it.bytes;
        *block = blocks[--count];
        munmap(it.start, it.bytes);
    }
    pthread_mutex_unlock(&lock);
    return it.start == address ? cudaSuccess : fake_fail(function, cudaErrorInvalidValue);
}

/* While a stream is captured, memory comes and goes in the order of a stream or not at all. */
static cudaError_t allocate_at_once(const char *function, void **address, size_t bytes, int device) {
    cudaError_t error = fake_forbidden(function, EVERY_STREAM);
    return error ? error : allocate(function, address, bytes, device);
}

cudaError_t cudaFree(void *address) {
    cudaError_t error = fake_forbidden(__func__, EVERY_STREAM);
    return error ? error : release(__func__, address);
}

cudaError_t cudaFreeHost(void *address) { return cudaFree(address); }
cudaError_t cudaMalloc(void **it, size_t bytes) { return allocate_at_once(__func__, it, bytes, fake_device()); }
cudaError_t cudaMallocHost(void **it, size_t bytes) { return allocate_at_once(__func__, it, bytes, PAGE_LOCKED); }
cudaError_t cudaHostAlloc(void **it, size_t bytes, unsigned flags) { return cudaMallocHost(it, bytes); }

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total) {
    *total = fake_memory();
    *free_bytes = *total - fake_taken(fake_device());
    return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *address) {
    int device = place(address);
    *attributes = (struct cudaPointerAttributes){
        .type = device == HOST          ? cudaMemoryTypeUnregistered
                : device == PAGE_LOCKED ? cudaMemoryTypeHost
                                        : cudaMemoryTypeDevice,
        .device = device >= 0 ? device : device == HOST ? -2 : 0,
        .devicePointer = device == HOST ? NULL : (void *)address,
        .hostPointer = device == PAGE_LOCKED ? (void *)address : NULL,
    };
    return cudaSuccess;
}

/* Where a copy really goes is read from its addresses. One that names a GPU's memory but has the host's is an error. */
static cudaError_t copy(const char *function, void *to, size_t to_pitch, const void *from, size_t from_pitch,
                        size_t width, size_t height, enum cudaMemcpyKind kind, int waits, cudaStream_t stream) {
    int source = place(from), target = place(to);
    int wants_source = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    int wants_target = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    if (!width || !height)
        return cudaSuccess;
    if ((wants_source && source == HOST) || (wants_target && target == HOST))
        return fake_fail(function, cudaErrorInvalidValue);
    cudaError_t error = waits ? fake_forbidden(function, stream) : cudaSuccess;
    if (error)
        return error;
    for (size_t row = 0; row < height; row++)
        memmove((char *)to + row * to_pitch, (const char *)from + row * from_pitch, width);
    if (width * height == sizeof(uint64_t) && source >= 0 && target < 0)
        *(uint64_t *)to = fake_setting("FAKE_CUDA_NUMBER", *(uint64_t *)to);
    error = fake_work(COPY, stream, "%d %d %zu", source < 0 ? HOST : source, target < 0 ? HOST : target,
                      width * height);
    if (waits)
        fake_log("WAIT copy");
    return error;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind) {
    return copy(__func__, to, 0, from, 0, bytes, 1, kind, 1, NULL);
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t stream) {
    return copy(__func__, to, 0, from, 0, bytes, 1, kind, 0, stream);
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                              size_t height, enum cudaMemcpyKind kind, cudaStream_t stream) {
    return copy(__func__, to, to_pitch, from, from_pitch, width, height, kind, 0, stream);
}

/* A variable of a kernel's module: there are none, so it holds zeros. */
cudaError_t cudaMemcpyFromSymbol(void *to, const void *symbol, size_t bytes, size_t offset, enum cudaMemcpyKind kind) {
    memset(to, 0, bytes);
    fake_log("WAIT symbol");
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *address, int value, size_t bytes, cudaStream_t stream) {
    if (bytes && place(address) == HOST)
        return fake_fail(__func__, cudaErrorInvalidValue);
    memset(address, value, bytes);
    return fake_work(SET, stream, "%zu", bytes);
}

cudaError_t cudaMemset(void *address, int value, size_t bytes) { return cudaMemsetAsync(address, value, bytes, NULL); }

/* Pools keep nothing back, so there is nothing to trim or to ask for; a pool is the number of its GPU. */
cudaError_t cudaMemPoolCreate(cudaMemPool_t *pool, const struct cudaMemPoolProps *properties) {
    *pool = (cudaMemPool_t)(intptr_t)properties->location.id;
    return cudaSuccess;
}

cudaError_t cudaMallocFromPoolAsync(void **address, size_t bytes, cudaMemPool_t pool, cudaStream_t stream) {
    return allocate(__func__, address, bytes, (int)(intptr_t)pool);
}

cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, enum cudaMemPoolAttr attribute, void *value) {
    *(uint64_t *)value = 0;
    return cudaSuccess;
}

cudaError_t cudaFreeAsync(void *address, cudaStream_t stream) { return release(__func__, address); }
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, enum cudaMemPoolAttr name, void *value) { return cudaSuccess; }
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t bytes) { return cudaSuccess; }
cudaError_t cudaMemPoolDestroy(cudaMemPool_t pool) { return cudaSuccess; }
