/* cuFFT and cuRAND, which the provider needs to be there: a decoder has no use for them. */
#include "calls.h"

NOT_SUPPORTED(cufftCreate) NOT_SUPPORTED(cufftDestroy) NOT_SUPPORTED(cufftSetStream) NOT_SUPPORTED(cufftXtExec)
NOT_SUPPORTED(cufftXtMakePlanMany) NOT_SUPPORTED(curandGetVersion)
