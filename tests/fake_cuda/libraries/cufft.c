/* cuFFT. A decoder has no use for it, so each call fails as one that cuFFT does not support. */
#define NOT_SUPPORTED(name) \
    int name(void) { return 16; }

NOT_SUPPORTED(cufftCreate)
NOT_SUPPORTED(cufftDestroy)
NOT_SUPPORTED(cufftSetStream)
NOT_SUPPORTED(cufftXtExec)
NOT_SUPPORTED(cufftXtMakePlanMany)
