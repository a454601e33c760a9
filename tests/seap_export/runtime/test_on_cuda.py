"""The runner on the stand-ins for CUDA: where its buffers lie, what is copied and captured, what it says of failures.

The numbers that come back mean nothing there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fake_cuda.log import Copy
from fake_cuda.machine import Machine, Ran

pytestmark = pytest.mark.needs("fake-cuda")

HOST = -1
#: Three decodings, one after another, of the prompts and with the provider options that are given.
PROGRAM = """
import sys
from pathlib import Path
from fake_cuda.log import mark
from seap_export.runtime.decoding.decoder import OnnxDecoder
model, rows, *options = sys.argv[1:]
decoder = OnnxDecoder(Path(model), 300, "cuda", 1, dict(option.split("=") for option in options))
def decode(number):
    mark(f"start {number}")
    decoding = decoder.start([[5, 6, 7]] * int(rows), 8)
    for step in range(3):
        mark(f"step {number}.{step}")
        decoding.step([8] * int(rows))
    assert decoding.logits.shape == (int(rows), 96)
    mark("between")
for number in range(3):
    decode(number)
"""
FORMS = [("fp16", "all", 1), ("bf16", "last", 3)]
#: Of a row of logits, which are in float32 if the graph is in bfloat16.
BYTES = {"fp16": 96 * 2, "bf16": 96 * 4}


def decode(machine: Machine, folder: Path, rows: int = 1, **options: object) -> Ran:
    given = [f"{name}={value}" for name, value in options.items()]
    return machine.run(["-c", PROGRAM, folder / "model.onnx", str(rows), *given])


def failure(ran: Ran) -> str:
    """The last line of a traceback."""
    assert ran.returncode != 0
    return ran.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(("dtype", "logits", "rows"), FORMS)
def test_a_captured_step_is_one_launch(
    dense: Callable[..., Path], fake_cuda: type[Machine], dtype: str, logits: str, rows: int
) -> None:
    """A copy to the GPU, a replay and a copy of the logits; only the first decoding captures."""
    folder = dense("llama-gqa", dtype=dtype, logits=logits, provider="cuda")
    ran = decode(fake_cuda(gpus=2), folder, rows, device_id=1, enable_cuda_graph=1)
    assert ran.returncode == 0, ran.stderr
    assert all(set(section.allocated) <= {1} and not section.between_devices for section in ran.sections.values())
    assert [ran[f"step {number}.0"].captures for number in range(3)] == [1, 0, 0]
    steps = [ran[f"step {number}.{step}"] for number in range(3) for step in range(3)]
    for step in steps[1:]:
        assert (step.launches, step.captures, len(step.replays)) == (0, 0, 1)
        assert step.copies == [Copy(HOST, 1, (64 + 1) * rows * 8), Copy(1, HOST, rows * BYTES[dtype])]
    for number in range(3):
        assert ran[f"start {number}"].to_host == [BYTES[dtype]] * rows
        assert ran[f"start {number}"].captures == 0


@pytest.mark.parametrize("dialect", ["fused", "standard"])
def test_without_capture_steps_launch_kernels_on_the_chosen_gpu(
    dense: Callable[..., Path], fake_cuda: type[Machine], dialect: str
) -> None:
    folder = dense("llama-gqa", dtype="fp16", dialect=dialect, provider="cuda")
    ran = decode(fake_cuda(gpus=2), folder, device_id=1, enable_cuda_graph=0)
    assert ran.returncode == 0, ran.stderr
    for name, section in ran.sections.items():
        assert set(section.allocated) <= {1}, name
        assert {copy.source for copy in section.copies} | {copy.target for copy in section.copies} <= {HOST, 1}, name
        assert section.between_devices == [], name
    for step in range(3):
        launches = ran[f"step 1.{step}"]
        assert launches.launches > 10
        assert (launches.captures, launches.replays) == (0, [])
        assert BYTES["fp16"] in launches.to_host


@pytest.mark.parametrize(
    ("memory", "options", "words"),
    [
        (1 << 16, {}, "not enough memory"),  # when the session is opened
        (3 << 20, {}, "not enough memory"),  # when it runs
        (1 << 30, {"device_id": 3}, "there is no such GPU"),
    ],
)
def test_what_the_machine_lacks(
    dense: Callable[..., Path], fake_cuda: type[Machine], memory: int, options: dict[str, int], words: str
) -> None:
    ran = decode(fake_cuda(memory=memory), dense("llama-gqa", dtype="fp16", provider="cuda"), 64, **options)
    assert "EnvironmentFailure" in failure(ran)
    assert words in failure(ran)


def test_without_cudnn(dense: Callable[..., Path], fake_cuda: type[Machine]) -> None:
    """Graphs for CUDA run; those for the CPU, which guard against left padding in batches, say what is missing."""
    machine = fake_cuda(without=("libcudnn.so.9",))
    ran = decode(machine, dense("llama-gqa", dtype="fp16", provider="cuda"), 2, enable_cuda_graph=1)
    assert ran.returncode == 0, ran.stderr
    failed = failure(decode(machine, dense("llama-gqa", dtype="fp16"), 2))
    assert "EnvironmentFailure" in failed
    assert "cuDNN cannot be loaded" in failed


def test_graphs_that_cannot_be_captured(dense: Callable[..., Path], fake_cuda: type[Machine]) -> None:
    failed = failure(decode(fake_cuda(), dense("llama-gqa", dtype="fp16"), enable_cuda_graph=1))
    assert "cannot be captured as a CUDA graph, because" in failed
    standard = dense("llama-gqa", dtype="fp16", dialect="standard", provider="cuda")
    failed = failure(decode(fake_cuda(), standard, enable_cuda_graph=1))
    assert "cache" in failed
    assert "enable_cuda_graph" in failed
