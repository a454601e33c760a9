"""The stand-ins behave as CUDA does where it matters: memory, GPUs, and capture."""

from __future__ import annotations

import json

import pytest

from fake_cuda.log import Copy
from fake_cuda.machine import Machine, Ran

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
"""
OUT_OF_MEMORY, NO_DEVICE, INVALID_DEVICE, INVALID_HANDLE = 2, 100, 101, 400
CAPTURE_UNSUPPORTED, CAPTURE_INVALIDATED = 900, 901


def run(machine: Machine, program: str) -> tuple[Ran, list[int]]:
    """Runs what prints a list as JSON."""
    ran = machine.run(["-c", BEGIN + program])
    assert ran.returncode == 0, ran.stderr
    return ran, json.loads(ran.stdout)


def test_memory_is_limited_by_what_lives(fake_cuda: type[Machine]) -> None:
    program = """
errors = []
for _ in range(3):
    error, it = made("cudaMalloc", size(600))
    errors += [error, made("cudaMalloc", size(600))[0], cuda.cudaFree(it)]
print(json.dumps(errors))
"""
    ran, errors = run(fake_cuda(memory=1000), program)
    assert errors == [0, OUT_OF_MEMORY, 0] * 3
    assert ran[""].allocated == ran[""].freed == {0: 1800}
    assert ran[""].refused == [600] * 3


def test_each_gpu_has_its_memory(fake_cuda: type[Machine]) -> None:
    program = """
error, a = made("cudaMalloc", size(600))
errors = [error, cuda.cudaSetDevice(1)]
error, b = made("cudaMalloc", size(600))
mark("copies")
host = ctypes.create_string_buffer(8)
errors += [error, cuda.cudaMemcpy(b, a, size(8), 3), cuda.cudaMemcpy(host, b, size(8), 2), cuda.cudaSetDevice(2)]
print(json.dumps(errors))
"""
    ran, errors = run(fake_cuda(gpus=2, memory=1000), program)
    assert errors == [0, 0, 0, 0, 0, INVALID_DEVICE]
    assert ran[""].allocated == {0: 600, 1: 600}
    assert ran["copies"].copies == [Copy(0, 1, 8), Copy(1, -1, 8)]
    assert (ran["copies"].between_devices, ran["copies"].to_host) == ([8], [8])
    assert ran["copies"].waits == {"copy": 2}


def test_a_captured_graph_replays_what_it_recorded(fake_cuda: type[Machine]) -> None:
    program = """
_, memory = made("cudaMalloc", size(64))
_, stream = made("cudaStreamCreate")
errors = [cuda.cudaStreamBeginCapture(stream, 0)]
errors += [cuda.cudaMemsetAsync(memory, 0, size(64), stream) for _ in range(3)]
graph = ctypes.c_void_p()
errors += [cuda.cudaStreamEndCapture(stream, ctypes.byref(graph))]
error, executable = made("cudaGraphInstantiate", graph, ctypes.c_ulonglong(0))
mark("replays")
errors += [error, cuda.cudaGraphLaunch(executable, stream), cuda.cudaGraphLaunch(executable, stream)]
print(json.dumps(errors))
"""
    ran, errors = run(fake_cuda(), program)
    assert not any(errors)
    assert (ran[""].captures, ran[""].captured, ran[""].sets) == (1, {"SET": 3}, 0)
    assert ran["replays"].replays == [(0, 0, 0, 3)] * 2


@pytest.mark.parametrize("forbidden", ["cudaStreamSynchronize(stream)", "cudaDeviceSynchronize()", "cudaFree(memory)"])
def test_what_is_forbidden_while_capturing_loses_the_graph(fake_cuda: type[Machine], forbidden: str) -> None:
    program = f"""
_, memory = made("cudaMalloc", size(64))
_, stream = made("cudaStreamCreate")
graph = ctypes.c_void_p()
errors = [cuda.cudaStreamBeginCapture(stream, 0), cuda.{forbidden}]
errors += [cuda.cudaStreamEndCapture(stream, ctypes.byref(graph)), cuda.{forbidden}]
print(json.dumps(errors))
"""
    ran, errors = run(fake_cuda(), program)
    assert errors == [0, CAPTURE_UNSUPPORTED, CAPTURE_INVALIDATED, 0]
    assert (ran[""].captures, ran[""].lost) == (0, 1)


def test_a_stream_belongs_to_its_gpu(fake_cuda: type[Machine]) -> None:
    program = """
_, memory = made("cudaMalloc", size(64))
_, stream = made("cudaStreamCreate")
errors = [cuda.cudaMemsetAsync(memory, 0, size(64), stream), cuda.cudaSetDevice(1)]
errors += [cuda.cudaMemsetAsync(memory, 0, size(64), stream)]
print(json.dumps(errors))
"""
    assert run(fake_cuda(gpus=2), program)[1] == [0, 0, INVALID_HANDLE]
