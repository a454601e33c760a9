"""The stand-ins behave as CUDA does where it matters: memory, GPUs, and capture."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fake_cuda.log import Copy
from fake_cuda.machine import Machine

pytestmark = [pytest.mark.needs("fake-cuda"), pytest.mark.full]

#: What each program here begins with: calls of the runtime library return CUDA's error codes.
BEGIN = """
import ctypes, json
from fake_cuda.log import mark
cuda = ctypes.CDLL("libcudart.so.13")
size = ctypes.c_size_t
def made(function, *arguments):
    it = ctypes.c_void_p()
    return getattr(cuda, function)(ctypes.byref(it), *arguments), it
_, memory = made("cudaMalloc", size(600))
_, stream = made("cudaStreamCreate")
graph, host = ctypes.c_void_p(), ctypes.create_string_buffer(8)
def fill():
    return cuda.cudaMemsetAsync(memory, 0, size(64), stream)
mark("program")
print(json.dumps(["""
OUT_OF_MEMORY, INVALID_DEVICE, INVALID_HANDLE, CAPTURE_UNSUPPORTED, CAPTURE_INVALIDATED = 2, 101, 400, 900, 901
#: What is called, the error codes, and what the log says of it.
PROGRAMS: dict[str, tuple[str, list[int], dict[str, Any]]] = {
    "memory is limited by what lives": (
        "made('cudaMalloc', size(600))[0], cuda.cudaFree(memory), made('cudaMalloc', size(600))[0]",
        [OUT_OF_MEMORY, 0, 0],
        {"allocated": {0: 600}},
    ),
    "each GPU has its memory": (
        "cuda.cudaSetDevice(1), (other := made('cudaMalloc', size(600)))[0],"
        "cuda.cudaMemcpy(other[1], memory, size(8), 3),"
        "cuda.cudaMemcpy(host, other[1], size(8), 2), cuda.cudaSetDevice(2)",
        [0, 0, 0, 0, INVALID_DEVICE],
        {"allocated": {1: 600}, "copies": [Copy(0, 1, 8), Copy(1, -1, 8)], "waits": {"copy": 2}},
    ),
    "a captured graph replays what it recorded": (
        "cuda.cudaStreamBeginCapture(stream, 0), fill(), fill(),"
        "cuda.cudaStreamEndCapture(stream, ctypes.byref(graph)),"
        "(it := made('cudaGraphInstantiate', graph, ctypes.c_ulonglong(0)))[0], cuda.cudaGraphLaunch(it[1], stream)",
        [0] * 6,
        {"captures": 1, "sets": 0, "replays": [(0, 0, 0, 2)]},
    ),
    **{
        f"{forbidden} loses the graph": (
            f"cuda.cudaStreamBeginCapture(stream, 0), cuda.{forbidden},"
            f"cuda.cudaStreamEndCapture(stream, ctypes.byref(graph)), cuda.{forbidden}",
            [0, CAPTURE_UNSUPPORTED, CAPTURE_INVALIDATED, 0],
            {"captures": 0, "lost": 1},
        )
        for forbidden in ("cudaStreamSynchronize(stream)", "cudaDeviceSynchronize()", "cudaFree(memory)")
    },
    "a stream belongs to its GPU": ("fill(), cuda.cudaSetDevice(1), fill()", [0, 0, INVALID_HANDLE], {"sets": 1}),
}  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS)
def test_they_behave_as_cuda(program: str, fake_cuda: type[Machine]) -> None:
    calls, errors, said = PROGRAMS[program]
    ran = fake_cuda(gpus=2, memory=1000).run(["-c", f"{BEGIN}{calls}]))"])
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == errors
    assert {name: getattr(ran["program"], name) for name in said} == said
