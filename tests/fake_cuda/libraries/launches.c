/* Kernels: their names, which the compiler's code registers, and their launches. */
#include "fake_cuda.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* A table from the addresses that stand for kernels on the host to their names. */
static struct kernel {
    const void *address;
    const char *name;
} *kernels;
static size_t count, room;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct kernel *slot(struct kernel *table, size_t size, const void *address) {
    size_t i = ((uintptr_t)address >> 4) * 2654435761u & (size - 1);
    while (table[i].address && table[i].address != address)
        i = (i + 1) & (size - 1);
    return &table[i];
}

static void add(const void *address, const char *name) {
    pthread_mutex_lock(&lock);
    if (2 * count >= room) {
        size_t larger = room ? 2 * room : 1 << 15;
        struct kernel *table = calloc(larger, sizeof *table);
        for (size_t i = 0; i < room; i++)
            if (kernels[i].address)
                *slot(table, larger, kernels[i].address) = kernels[i];
        free(kernels);
        kernels = table;
        room = larger;
    }
    struct kernel *free_slot = slot(kernels, room, address);
    count += !free_slot->address;
    *free_slot = (struct kernel){address, name};
    pthread_mutex_unlock(&lock);
}

static cudaError_t launch(const void *address, cudaStream_t stream) {
    pthread_mutex_lock(&lock);
    const char *name = room ? slot(kernels, room, address)->name : NULL;
    pthread_mutex_unlock(&lock);
    return fake_work(LAUNCH, stream, "%s", name ? name : "?");
}

/* What the code that nvcc writes calls when a library is loaded, and at each launch. */
void **__cudaRegisterFatBinary(void *binary) {
    static void *handle;
    (void)binary;
    return &handle;
}

void __cudaRegisterFatBinaryEnd(void **handle) { (void)handle; }
void __cudaUnregisterFatBinary(void **handle) { (void)handle; }

void __cudaRegisterFunction(void **handle, const char *address, char *device_function, const char *name, int threads,
                            void *thread, void *block, void *block_size, void *grid_size, int *warp_size) {
    (void)handle, (void)device_function, (void)threads, (void)thread, (void)block, (void)block_size, (void)grid_size;
    (void)warp_size;
    add(address, name);
}

void __cudaRegisterVar(void **handle, char *address, char *device_address, const char *name, int is_external,
                       size_t bytes, int is_constant, int is_global) {
    (void)handle, (void)address, (void)device_address, (void)name, (void)is_external, (void)bytes, (void)is_constant;
    (void)is_global;
}

/* kernel<<<grid, block, shared, stream>>>(...) pushes these four, and the function that it calls pops them. */
static __thread struct configuration {
    dim3 grid, block;
    size_t shared;
    cudaStream_t stream;
} pushed[8];
static __thread unsigned depth;

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
    if (depth == sizeof pushed / sizeof *pushed)
        abort();
    pushed[depth++] = (struct configuration){grid, block, shared, stream};
    return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream) {
    if (!depth)
        abort();
    struct configuration it = pushed[--depth];
    *grid = it.grid, *block = it.block, *shared = it.shared, *(cudaStream_t *)stream = it.stream;
    return cudaSuccess;
}

cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *address) {
    *kernel = (cudaKernel_t)address;
    return cudaSuccess;
}

cudaError_t cudaLaunchKernel(const void *address, dim3 grid, dim3 block, void **arguments, size_t shared,
                             cudaStream_t stream) {
    (void)grid, (void)block, (void)arguments, (void)shared;
    return launch(address, stream);
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **arguments, size_t shared,
                               cudaStream_t stream) {
    return cudaLaunchKernel(kernel, grid, block, arguments, shared, stream);
}

cudaError_t cudaLaunchCooperativeKernel(const void *address, dim3 grid, dim3 block, void **arguments, size_t shared,
                                        cudaStream_t stream) {
    return cudaLaunchKernel(address, grid, block, arguments, shared, stream);
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *configuration, const void *address, void **arguments) {
    (void)arguments;
    return launch(address, configuration->stream);
}

/* Kernels that are loaded from a binary in memory. */
cudaError_t cudaLibraryLoadData(cudaLibrary_t *library, const void *code, enum cudaJitOption *options, void **values,
                                unsigned number, enum cudaLibraryOption *library_options, void **library_values,
                                unsigned library_number) {
    (void)code, (void)options, (void)values, (void)number, (void)library_options, (void)library_values;
    (void)library_number;
    *library = malloc(1);
    return cudaSuccess;
}

cudaError_t cudaLibraryGetKernel(cudaKernel_t *kernel, cudaLibrary_t library, const char *name) {
    (void)library;
    char *address = strdup(name);
    add(address, address);
    *kernel = (cudaKernel_t)address;
    return cudaSuccess;
}

cudaError_t cudaLibraryUnload(cudaLibrary_t library) {
    free(library);
    return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attributes, const void *address) {
    (void)address;
    int version = fake_setting("FAKE_CUDA_SM", 90);
    *attributes = (struct cudaFuncAttributes){
        .maxThreadsPerBlock = 1024, .binaryVersion = version, .ptxVersion = version};
    return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void *address, enum cudaFuncAttribute attribute, int value) {
    struct cudaDeviceProp it;
    (void)address;
    cudaError_t error = cudaGetDeviceProperties(&it, fake_device());
    if (error)
        return error;
    int is_too_much = attribute == cudaFuncAttributeMaxDynamicSharedMemorySize && value > (int)it.sharedMemPerBlockOptin;
    return is_too_much ? fake_fail(__func__, cudaErrorInvalidValue) : cudaSuccess;
}

cudaError_t cudaKernelSetAttributeForDevice(cudaKernel_t kernel, enum cudaFuncAttribute attribute, int value,
                                            int device) {
    (void)device;
    return cudaFuncSetAttribute(kernel, attribute, value);
}

/* By threads and shared memory alone; registers are not known. */
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *address, int threads,
                                                                   size_t shared, unsigned flags) {
    struct cudaDeviceProp it;
    (void)address, (void)flags;
    cudaError_t error = cudaGetDeviceProperties(&it, fake_device());
    if (error)
        return error;
    *blocks = it.maxThreadsPerMultiProcessor / threads;
    if (*blocks > it.maxBlocksPerMultiProcessor)
        *blocks = it.maxBlocksPerMultiProcessor;
    if (shared && *blocks > (int)(it.sharedMemPerMultiprocessor / (shared + it.reservedSharedMemPerBlock)))
        *blocks = it.sharedMemPerMultiprocessor / (shared + it.reservedSharedMemPerBlock);
    return cudaSuccess;
}
