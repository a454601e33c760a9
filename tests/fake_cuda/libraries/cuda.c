/* The driver: what programs ask it about the GPUs, and the one function that the provider links. */
#include "fake_cuda.h"

#include <stdio.h>

/* The driver's errors have the numbers of the runtime's. */
int cuInit(unsigned flags) {
    return fake_devices() ? 0 : cudaErrorNoDevice;
}

int cuDriverGetVersion(int *version) { return cudaDriverGetVersion(version); }

int cuDeviceGetCount(int *count) {
    *count = fake_devices();
    return 0;
}

int cuDeviceGet(int *device, int number) {
    *device = number;
    return number >= 0 && number < fake_devices() ? 0 : cudaErrorInvalidDevice;
}

int cuDeviceGetName(char *name, int bytes, int device) {
    struct cudaDeviceProp properties;
    int error = cudaGetDeviceProperties(&properties, device);
    if (!error)
        snprintf(name, bytes, "%s", properties.name);
    return error;
}

int cuDeviceTotalMem_v2(size_t *bytes, int device) {
    *bytes = fake_memory();
    return device >= 0 && device < fake_devices() ? 0 : cudaErrorInvalidDevice;
}

/* Describes a tensor to the copy engine of SM 90 and later. */
int cuTensorMapEncodeTiled(void) { return 0; }
