/* cuDNN. */
#include "calls.h"

#include <stdint.h>

size_t cudnnGetVersion(void) { return 92700; } /* 9.27.0 */
const char *cudnnGetErrorString(int status) { return status ? "failed" : "success"; }

void cudnnGetLastErrorString(char *text, size_t bytes) {
    if (bytes)
        *text = 0;
}

MADE(cudnn, )
SET_STREAM(cudnnSetStream)
int cudnnGetStream(struct handle *handle, cudaStream_t *stream) { return *stream = handle->stream, 0; }

/* A reduction takes no memory of its own. */
int cudnnGetReductionIndicesSize(void *handle, void *reduction, void *from, void *to, size_t *bytes) {
    return *bytes = 0;
}

int cudnnGetReductionWorkspaceSize(void *handle, void *reduction, void *from, void *to, size_t *bytes) {
    return *bytes = 0;
}

#define DESCRIPTOR(name) MADE(cudnn, name##Descriptor)
DESCRIPTOR(Activation) DESCRIPTOR(Convolution) DESCRIPTOR(Dropout) DESCRIPTOR(Filter) DESCRIPTOR(LRN)
DESCRIPTOR(Pooling) DESCRIPTOR(RNNData) DESCRIPTOR(RNN) DESCRIPTOR(ReduceTensor) DESCRIPTOR(Tensor)

NOTHING(cudnnSetActivationDescriptor) NOTHING(cudnnSetConvolutionGroupCount) NOTHING(cudnnSetConvolutionMathType)
NOTHING(cudnnSetConvolutionNdDescriptor) NOTHING(cudnnSetDropoutDescriptor) NOTHING(cudnnSetFilterNdDescriptor)
NOTHING(cudnnSetLRNDescriptor) NOTHING(cudnnSetPoolingNdDescriptor) NOTHING(cudnnSetRNNDataDescriptor)
NOTHING(cudnnSetRNNDescriptor_v8) NOTHING(cudnnSetReduceTensorDescriptor) NOTHING(cudnnSetTensorNdDescriptor)

WORK(cudnnActivationForward) WORK(cudnnAddTensor) WORK(cudnnBatchNormalizationForwardInference)
WORK(cudnnBatchNormalizationForwardTraining) WORK(cudnnConvolutionBiasActivationForward)
WORK(cudnnConvolutionForward) WORK(cudnnLRNCrossChannelForward) WORK(cudnnPoolingForward) WORK(cudnnRNNForward)
WORK(cudnnReduceTensor) WORK(cudnnSoftmaxForward)

NOT_SUPPORTED(cudnnDeriveBNTensorDescriptor) NOT_SUPPORTED(cudnnDropoutGetStatesSize)
NOT_SUPPORTED(cudnnFindConvolutionForwardAlgorithmEx) NOT_SUPPORTED(cudnnGetConvolutionForwardAlgorithm_v7)
NOT_SUPPORTED(cudnnGetConvolutionForwardWorkspaceSize) NOT_SUPPORTED(cudnnGetRNNTempSpaceSizes)
NOT_SUPPORTED(cudnnGetRNNWeightParams) NOT_SUPPORTED(cudnnGetTensorNdDescriptor)

/* What is built of operations, such as attention: there is one engine, which supports all of them, has nothing to say of
 * itself, and needs no memory. */
enum { INT64 = 3, BACKEND_DESCRIPTOR = 15, INT32 = 23 }; /* types of attributes */
enum { KNOB_CHOICES = 302 };                              /* a name of one */

NOTHING(cudnnBackendSetAttribute) NOTHING(cudnnBackendFinalize) WORK(cudnnBackendExecute)
DESTROY(cudnnBackendDestroyDescriptor)
int cudnnBackendCreateDescriptor(int type, void **made) { return cudnnCreate(made); }

int cudnnBackendGetAttribute(void *descriptor, int name, int type, int64_t room, int64_t *count, void *values) {
    if (values && room && type == INT64)
        *(int64_t *)values = 0;
    if (values && room && type == INT32)
        *(int32_t *)values = 0;
    if (count)
        *count = type == INT64 || type == INT32 || (type == BACKEND_DESCRIPTOR && name != KNOB_CHOICES);
    return 0;
}
