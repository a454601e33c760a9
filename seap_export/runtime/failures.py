"""Tells what the machine lacks from what is wrong with a graph, in the errors that ONNX Runtime raises."""

from __future__ import annotations

import re
from dataclasses import dataclass

from seap_export.errors import EnvironmentFailure
from seap_export.runtime.providers import one_line


@dataclass(frozen=True)
class _Cause:
    """Something that the machine lacks, the messages that say so, and how to fix it."""

    lack: str
    messages: re.Pattern[str]
    remedy: str


#: The first cause that fits is reported.
_CAUSES = (
    _Cause(
        "not enough memory",
        re.compile(r"\b(?:bad_)?alloc|ALLOC_FAILED|out of memory|Available memory of", re.IGNORECASE),
        "free memory on the device, or run a smaller model, fewer prompts at once or shorter ones",
    ),
    _Cause(
        "cuDNN cannot be loaded",
        re.compile(r"cuDNN is unavailable|libcudnn|cudnn64"),
        'run: pip install "onnxruntime-gpu[cuda,cudnn]"',
    ),
    _Cause(
        "there is no such GPU",
        re.compile(r"Invalid device ID|device id doesn't match|invalid device ordinal"),
        "choose another device_id",
    ),
    _Cause(
        "this GPU is too old for the precision",
        re.compile(r"compute capability"),
        "convert the model in fp16 instead of bf16, or use a newer GPU",
    ),
    _Cause(
        "this adapter does not compute in float16",
        re.compile(r"requires f16 but the device does not support it"),
        "convert the model with --precision fp32, or int8 or int4 with --activations fp32, or use --provider cpu",
    ),
    _Cause(
        "the NVIDIA driver is too old",
        re.compile(r"driver version is insufficient", re.IGNORECASE),
        "install a newer NVIDIA driver",
    ),
    _Cause(
        "CUDA failed",
        re.compile(r"\b(?:CUDA|CUBLAS|CUDNN|CURAND|CUFFT)\w* (?:failure|error)\b"),
        "run `seap-export doctor`, which finds out whether the GPU and its driver work",
    ),
)
#: The part of a message that matters, without the names of functions and types around it.
_GIST = re.compile(r"Failed to allocate .*|Available memory of .*|\b(?:CUDA|CUBLAS|CUDNN) failure \d+: [^;]*[^; ]")


def environment_failure(error: Exception, what: str) -> EnvironmentFailure | None:
    """The error to raise if ONNX Runtime failed because of the machine; None if the graph or its inputs are to blame.

    Args:
        error: The exception of ONNX Runtime, from opening or running a session or from allocating a tensor.
        what: What could not be done, with its file, such as "model.onnx: does not run".
    """
    reason = one_line(error)
    for cause in _CAUSES:
        if cause.messages.search(reason):
            gist = _GIST.search(reason)
            return EnvironmentFailure(f"{what}: {cause.lack} ({gist[0] if gist else reason}); {cause.remedy}")
    return None
