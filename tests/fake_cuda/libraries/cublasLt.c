/* cuBLASLt. Its calls take their stream last. */
#include "calls.h"

MADE(cublasLt, ) MADE(cublasLtMatmulDesc, ) MADE(cublasLtMatmulPreference, ) MADE(cublasLtMatrixLayout, )
MADE(cublasLtMatrixTransformDesc, )
NOTHING(cublasLtMatmulAlgoConfigSetAttribute) NOTHING(cublasLtMatmulAlgoInit) NOTHING(cublasLtMatmulDescSetAttribute)
NOTHING(cublasLtMatmulPreferenceSetAttribute) NOTHING(cublasLtMatrixLayoutSetAttribute)

/* It has no algorithm to offer. */
int cublasLtMatmulAlgoGetHeuristic(void *handle, void *operation, void *a, void *b, void *c, void *d, void *preference,
                                   int requested, void *results, int *returned) {
    return *returned = 0;
}

int cublasLtMatmul(void *handle, void *operation, const void *alpha, const void *a, void *a_layout, const void *b,
                   void *b_layout, const void *beta, const void *c, void *c_layout, void *d, void *d_layout,
                   const void *algorithm, void *workspace, size_t workspace_bytes, cudaStream_t stream) {
    return fake_call(__func__, stream);
}

int cublasLtMatrixTransform(void *handle, void *operation, const void *alpha, const void *a, void *a_layout,
                            const void *beta, const void *b, void *b_layout, void *c, void *c_layout,
                            cudaStream_t stream) {
    return fake_call(__func__, stream);
}
