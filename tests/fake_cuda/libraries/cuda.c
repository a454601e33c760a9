/* The driver. CUDA 13's provider links one function of it, which describes a tensor to Hopper's copy engine. */
int cuTensorMapEncodeTiled(void) { return 0; }
