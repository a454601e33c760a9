/* The GPUs: how many, of which kind, and which one is current. */
#include "fake_cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Limits of a compute capability, from the tables of CUDA's programming guide, with the multiprocessors and the level 2
 * cache of one GPU that has it. */
static const struct kind {
    int sm, shared_of_block, shared, threads, blocks, multiprocessors, l2_mib;
} kinds[] = {
    {75, 65536, 65536, 1024, 16, 40, 4},       /* T4 */
    {80, 166912, 167936, 2048, 32, 108, 40},   /* A100 */
    {90, 232448, 233472, 2048, 32, 132, 50},   /* H100 */
};

static __thread int current;

static const struct kind *kind(void) {
    int sm = fake_setting("FAKE_CUDA_SM", 90);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (kinds[i].sm == sm)
            return &kinds[i];
    fprintf(stderr, "FAKE_CUDA_SM=%d is not in devices.c\n", sm);
    exit(1);
}

int fake_device(void) { return current; }

int fake_devices(void) { return fake_setting("FAKE_CUDA_GPUS", 1); }

size_t fake_memory(void) { return fake_setting("FAKE_CUDA_MEMORY", 80ull << 30); }

cudaError_t cudaGetDeviceCount(int *count) {
    *count = fake_devices();
    return *count ? cudaSuccess : fake_fail(__func__, cudaErrorNoDevice);
}

cudaError_t cudaGetDevice(int *device) {
    *device = current;
    return fake_devices() ? cudaSuccess : fake_fail(__func__, cudaErrorNoDevice);
}

static cudaError_t check(const char *function, int device) {
    if (!fake_devices())
        return fake_fail(function, cudaErrorNoDevice);
    return device >= 0 && device < fake_devices() ? cudaSuccess : fake_fail(function, cudaErrorInvalidDevice);
}

cudaError_t cudaSetDevice(int device) {
    cudaError_t error = check(__func__, device);
    if (!error)
        current = device;
    return error;
}

cudaError_t cudaDriverGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version) { return cudaDriverGetVersion(version); }

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device) {
    const struct kind *it = kind();
    const char *name = getenv("FAKE_CUDA_NAME");
    cudaError_t error = check(__func__, device);
    if (error)
        return error;
    *properties = (struct cudaDeviceProp){
        .major = it->sm / 10, .minor = it->sm % 10, .totalGlobalMem = fake_memory(), .sharedMemPerBlock = 48 << 10,
        .sharedMemPerBlockOptin = it->shared_of_block, .sharedMemPerMultiprocessor = it->shared,
        .reservedSharedMemPerBlock = it->sm < 80 ? 0 : 1 << 10, .regsPerBlock = 65536, .regsPerMultiprocessor = 65536,
        .warpSize = 32, .maxThreadsPerBlock = 1024, .maxThreadsPerMultiProcessor = it->threads,
        .maxBlocksPerMultiProcessor = it->blocks, .maxThreadsDim = {1024, 1024, 64},
        .maxGridSize = {2147483647, 65535, 65535}, .multiProcessorCount = it->multiprocessors,
        .l2CacheSize = it->l2_mib << 20, .totalConstMem = 65536, .textureAlignment = 512, .concurrentKernels = 1,
        .unifiedAddressing = 1, .memoryPoolsSupported = 1, .cooperativeLaunch = 1, .pciBusID = device + 1,
    };
    snprintf(properties->name, sizeof properties->name, "%s", name ? name : "a stand-in for a GPU");
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device) {
    struct cudaDeviceProp it;
    cudaError_t error = cudaGetDeviceProperties(&it, device);
    if (error)
        return error;
#define ATTRIBUTE(name, field) case cudaDevAttr##name: *value = it.field; break
    switch (attribute) {
        ATTRIBUTE(ComputeCapabilityMajor, major); ATTRIBUTE(ComputeCapabilityMinor, minor);
        ATTRIBUTE(MultiProcessorCount, multiProcessorCount); ATTRIBUTE(MaxSharedMemoryPerBlock, sharedMemPerBlock);
        ATTRIBUTE(MaxSharedMemoryPerBlockOptin, sharedMemPerBlockOptin);
        ATTRIBUTE(MaxSharedMemoryPerMultiprocessor, sharedMemPerMultiprocessor);
        ATTRIBUTE(ReservedSharedMemoryPerBlock, reservedSharedMemPerBlock);
        ATTRIBUTE(MaxRegistersPerBlock, regsPerBlock);
        ATTRIBUTE(MaxRegistersPerMultiprocessor, regsPerMultiprocessor); ATTRIBUTE(WarpSize, warpSize);
        ATTRIBUTE(MaxThreadsPerBlock, maxThreadsPerBlock);
        ATTRIBUTE(MaxThreadsPerMultiProcessor, maxThreadsPerMultiProcessor);
        ATTRIBUTE(MaxBlocksPerMultiprocessor, maxBlocksPerMultiProcessor); ATTRIBUTE(MaxGridDimX, maxGridSize[0]);
        ATTRIBUTE(L2CacheSize, l2CacheSize); ATTRIBUTE(MemoryPoolsSupported, memoryPoolsSupported);
        ATTRIBUTE(CooperativeLaunch, cooperativeLaunch);
    /* Nothing is made up: whoever asks for another one is told that it is unknown. */
    default: return fake_fail(__func__, cudaErrorInvalidValue);
    }
    return cudaSuccess;
}

/* The driver's functions, which some kernels ask for by name: there are none. */
cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **function, unsigned version,
                                             unsigned long long flags,
                                             enum cudaDriverEntryPointQueryResult *result) {
    *function = NULL;
    if (result)
        *result = cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
}
