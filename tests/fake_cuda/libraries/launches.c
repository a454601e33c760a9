/* Kernels do nothing: their launches are written down. */
#include "fake_cuda.h"

#include <stdlib.h>
#include <string.h>

static cudaError_t launch(cudaStream_t stream) { return fake_work(LAUNCH, stream, "kernel"); }

/* What the code that nvcc writes calls when a library is loaded, and at each launch. */
void **__cudaRegisterFatBinary(void *binary) {
    static void *handle;
    return &handle;
}

void __cudaRegisterFatBinaryEnd(void **handle) {}
void __cudaUnregisterFatBinary(void **handle) {}
void __cudaRegisterFunction(void) {}
void __cudaRegisterVar(void) {}

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
    return launch(stream);
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **arguments, size_t shared,
                               cudaStream_t stream) {
    return launch(stream);
}

cudaError_t cudaLaunchCooperativeKernel(const void *address, dim3 grid, dim3 block, void **arguments, size_t shared,
                                        cudaStream_t stream) {
    return launch(stream);
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *configuration, const void *address, void **arguments) {
    return launch(configuration->stream);
}

/* Kernels that are loaded from a binary in memory: any address stands for them. */
static char loaded;

cudaError_t cudaLibraryLoadData(cudaLibrary_t *library, const void *code, enum cudaJitOption *options, void **values,
                                unsigned number, enum cudaLibraryOption *library_options, void **library_values,
                                unsigned library_number) {
    *library = (cudaLibrary_t)&loaded;
    return cudaSuccess;
}

cudaError_t cudaLibraryGetKernel(cudaKernel_t *kernel, cudaLibrary_t library, const char *name) {
    *kernel = (cudaKernel_t)&loaded;
    return cudaSuccess;
}

cudaError_t cudaLibraryUnload(cudaLibrary_t library) { return cudaSuccess; }

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attributes, const void *address) {
    int version = fake_setting("FAKE_CUDA_SM", 90);
    *attributes = (struct cudaFuncAttributes){
        .maxThreadsPerBlock = 1024, .binaryVersion = version, .ptxVersion = version};
    return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void *address, enum cudaFuncAttribute attribute, int value) {
    struct cudaDeviceProp it;
    cudaError_t error = cudaGetDeviceProperties(&it, fake_device());
    if (error)
        return error;
    int is_too_much = attribute == cudaFuncAttributeMaxDynamicSharedMemorySize && value > (int)it.sharedMemPerBlockOptin;
    return is_too_much ? fake_fail(__func__, cudaErrorInvalidValue) : cudaSuccess;
}

cudaError_t cudaKernelSetAttributeForDevice(cudaKernel_t kernel, enum cudaFuncAttribute attribute, int value,
                                            int device) {
    return cudaFuncSetAttribute(kernel, attribute, value);
}

/* By threads and shared memory alone; registers are not known. */
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *address, int threads,
                                                                   size_t shared, unsigned flags) {
    struct cudaDeviceProp it;
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
