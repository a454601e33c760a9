/* cuBLAS. */
#include "calls.h"

MADE(cublas, _v2)
SET_STREAM(cublasSetStream_v2)
NOTHING(cublasSetMathMode)

WORK(cublasDgeam) WORK(cublasDgemmBatched) WORK(cublasDgemmStridedBatched) WORK(cublasDgemm_v2)
WORK(cublasDgetrfBatched) WORK(cublasDgetriBatched) WORK(cublasGemmBatchedEx) WORK(cublasGemmEx)
WORK(cublasGemmStridedBatchedEx) WORK(cublasScopy_v2) WORK(cublasSgeam) WORK(cublasSgemmBatched)
WORK(cublasSgemmStridedBatched) WORK(cublasSgemm_v2) WORK(cublasSgetrfBatched) WORK(cublasSgetriBatched)
WORK(cublasSscal_v2)

int cublasGetMathMode(struct handle *handle, int *mode) { return *mode = 0; } /* the default */
const char *cublasGetStatusName(int status) { return status ? "failed" : "CUBLAS_STATUS_SUCCESS"; }
const char *cublasGetStatusString(int status) { return status ? "failed" : "success"; }
