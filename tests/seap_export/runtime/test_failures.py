"""What ONNX Runtime says when the machine is to blame, and what it says of bad graphs."""

from __future__ import annotations

import pytest

from seap_export.runtime.failures import environment_failure

NODE = "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "[ONNXRuntimeError] : 1 : FAIL : Exception during initialization: /onnxruntime_src/onnxruntime/core/"
            "framework/bfc_arena.cc:360 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, "
            "onnxruntime::Stream*) Failed to allocate memory for requested buffer of size 1769472",
            r"^m: not enough memory \(Failed to allocate memory for .* of size 1769472\); free memory on ",
        ),
        (f"{NODE} MatMul node. Name:'a' Status Message: CUDA failure 2: out of memory ; GPU=0", "not enough memory"),
        ("std::bad_alloc", "not enough memory"),
        (
            "[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Non-zero status code returned while running ReduceMin node. "
            "Name:'a' Status Message: cuDNN is unavailable for CUDA Execution Provider: dlopen failed for "
            "libcudnn.so: libcudnn.so: cannot open shared object file: No such file or directory",
            r"^m: cuDNN cannot be loaded \(.*ReduceMin.*\); run: pip install \"onnxruntime-gpu\[cuda,cudnn\]\"$",
        ),
        (
            'Parse Failed to parse provider option "device_id": cuda_execution_provider_info.cc:71 operator() Invalid '
            "device ID: 3, must be between 0 (inclusive) and 1 (exclusive).",
            r"no such GPU \(.*ID: 3, must be .*\); choose another device_id$",
        ),
        (
            f"{NODE} Add node. Name:'a' Status Message: CUDA failure 209: no kernel image is available for execution "
            "on the device ; GPU=0 ; hostname=h ; file=/a.cu ; line=1 ; expr=cudaGetLastError();",
            r"CUDA failed \(CUDA failure 209: no kernel image [a-z ]+ on the device\); run `seap-export doctor`",
        ),
        (
            f"{NODE} MatMulNBits node. Name:'a' Status Message: BFloat16 MatMulNBits is not supported on cuda device "
            "with compute capability < 8.0",
            r"this GPU is too old for the precision \(.*\); convert the model in fp16",
        ),
        ("[ONNXRuntimeError] : 11 : EP_FAIL : CUDA error cudaErrorIllegalAddress", "CUDA failed"),
    ],
)
def test_what_the_machine_lacks(message: str, expected: str) -> None:
    failure = environment_failure(RuntimeError(message), "m")
    assert failure is not None
    assert failure.exit_code == 6
    with pytest.raises(type(failure), match=expected):
        raise failure
    assert "\n" not in str(failure)


@pytest.mark.parametrize(
    "message",
    [
        f"{NODE} Reshape node. Name:'a' Status Message: the input tensor cannot be reshaped. Input shape:{{1}}",
        "[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Load model from m.onnx failed:Protobuf parsing failed.",
        "[ONNXRuntimeError] : 1 : FAIL : Fatal error: com.x:Unallocated(-1) is not a registered function/op",
        "[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Failed to find kernel for CUDAExecutionProvider",
    ],
)
def test_what_is_wrong_with_a_graph(message: str) -> None:
    assert environment_failure(RuntimeError(message), "m") is None
