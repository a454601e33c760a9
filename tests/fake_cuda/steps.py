"""Runs graphs as a server does, on the stand-ins: a prompt, then steps, with caches that stay on the GPU.

    python -m fake_cuda.steps JOBS    a JSON list of `Job`s as objects; prints where each one's nodes are, as JSON

Each call is a section of the log, such as "NAME prompt" or "NAME step 2"; what lies between calls is in "between".
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from fake_cuda.log import mark
from fake_cuda.machine import Machine, Ran

#: The section of what lies between calls, such as the caches' zeros.
BETWEEN = "between"
PROMPT = 5
#: ONNX's numbers of the elements of caches, and a dtype of numpy that has their size.
ELEMENTS = {"tensor(float)": (1, np.float32), "tensor(float16)": (10, np.float16), "tensor(bfloat16)": (16, np.uint16)}


@dataclass(frozen=True)
class Job:
    """A graph and how it is run: a prompt, then `steps` calls with one token for each row of the batch.

    Caches are updated in place, in buffers of `capacity` positions, as the fused dialect does. Captured steps read and
    write what stays where it is. `cache` has the heads and the numbers in each, if the graph does not say them.
    """

    name: str  # what its sections begin with
    model: str
    batch: int = 1
    steps: int = 2
    is_captured: bool = False
    options: dict[str, str] = field(default_factory=dict)  # of the CUDA provider
    capacity: int = 32
    cache: tuple[int, int] = (0, 0)


def run(machine: Machine, jobs: list[Job]) -> tuple[Ran, dict[str, dict[str, list[str]]]]:
    """Runs jobs in one process; also returns each one's nodes by provider, as operators."""
    ran = machine.run(["-m", "fake_cuda.steps", json.dumps([asdict(job) for job in jobs])], timeout=600)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return ran, json.loads(ran.stdout)


class _Run:
    """One job in this process."""

    def __init__(self, job: Job) -> None:
        self.job = job
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        provider_options = job.options | ({"enable_cuda_graph": "1"} if job.is_captured else {})
        providers = [("CUDAExecutionProvider", provider_options), "CPUExecutionProvider"]
        self.session = ort.InferenceSession(job.model, options, providers=providers, enable_fallback=False)
        self.device = int(job.options.get("device_id", "0"))
        self.pasts = [item for item in self.session.get_inputs() if item.name.startswith("past")]
        self.buffers = {past.name: self._zeros(past, job.capacity) for past in self.pasts}
        self.step: ort.IOBinding | None = None
        self.inputs: dict[str, ort.OrtValue] = {}

    def nodes(self) -> dict[str, list[str]]:
        by_provider: dict[str, list[str]] = {}
        for part in self.session.get_provider_graph_assignment_info():
            by_provider.setdefault(part.ep_name, []).extend(node.op_type for node in part.get_nodes())
        return by_provider

    def _zeros(self, past: Any, length: int) -> ort.OrtValue:
        _, dtype = ELEMENTS[past.type]
        if not past.name.endswith((".key", ".value")):  # it has no places for tokens
            zeros = np.zeros((self.job.batch, *past.shape[1:]), dtype)
            return ort.OrtValue.ortvalue_from_numpy(zeros, "cuda", self.device)
        heads, numbers = (
            said if isinstance(said, int) else known
            for said, known in zip(past.shape[1::2], self.job.cache, strict=True)
        )
        zeros = np.zeros((self.job.batch, heads, length, numbers), dtype)
        return ort.OrtValue.ortvalue_from_numpy(zeros, "cuda", self.device)

    def call(self, section: str, tokens: int, length: int) -> None:
        """Runs a call of so many tokens a row, after which the cache holds `length`."""
        is_step = tokens == 1
        mask = np.zeros((self.job.batch, self.job.capacity if is_step else length), np.int64)
        mask[:, :length] = 1
        feeds = {"input_ids": np.ones((self.job.batch, tokens), np.int64), "attention_mask": mask}
        for item in (item for item in self.session.get_inputs() if item.name == "position_ids"):
            positions = np.arange(length - tokens, length)[None].repeat(self.job.batch, axis=0)
            # Three of each token, where images could have others.
            feeds[item.name] = positions if len(item.shape) == 2 else positions[None].repeat(3, axis=0)
        options = ort.RunOptions()
        if self.job.is_captured:
            # Each number stands for a graph, and -1 for a call that is not captured.
            options.add_run_config_entry("gpu_graph_id", "1" if is_step else "-1")
        binding = self._fixed(feeds) if self.job.is_captured and is_step else self._bound(feeds)
        mark(f"{self.job.name} {section}")
        self.session.run_with_iobinding(binding, options)
        mark(BETWEEN)

    def _bound(self, feeds: dict[str, NDArray[np.int64]]) -> ort.IOBinding:
        binding = self._with_caches()
        for name, feed in feeds.items():
            binding.bind_cpu_input(name, feed)
        binding.bind_output("logits", "cpu")
        return binding

    def _fixed(self, feeds: dict[str, NDArray[np.int64]]) -> ort.IOBinding:
        """The binding of all steps, whose inputs get new content."""
        if self.step is None:
            self.step = self._with_caches()
            for name, feed in feeds.items():
                self.inputs[name] = ort.OrtValue.ortvalue_from_numpy(feed, "cuda", self.device)
                self.step.bind_ortvalue_input(name, self.inputs[name])
            logits = next(item for item in self.session.get_outputs() if item.name == "logits")
            element, _ = ELEMENTS[logits.type]
            shape = [self.job.batch, 1, logits.shape[2]]
            value = ort.OrtValue.ortvalue_from_shape_and_type(shape, element, "cuda", self.device)
            self.step.bind_ortvalue_output("logits", value)
        for name, feed in feeds.items():
            self.inputs[name].update_inplace(feed)
        return self.step

    def _with_caches(self) -> ort.IOBinding:
        binding = self.session.io_binding()
        for past in self.pasts:
            element, _ = ELEMENTS[past.type]
            buffer = self.buffers[past.name]
            shape = buffer.shape()
            binding.bind_input(past.name, "cuda", self.device, element, shape, buffer.data_ptr())
            present = re.sub("^past(_key_values)?", "present", past.name)
            binding.bind_output(present, "cuda", self.device, element, shape, buffer.data_ptr())
        return binding


def main() -> None:
    """Runs the jobs that the command line names."""
    nodes_of = {}
    for values in json.loads(sys.argv[1]):
        job = Job(**values)
        mark(f"{job.name} start")
        it = _Run(job)
        mark(BETWEEN)
        nodes_of[job.name] = it.nodes()
        it.call("prompt", PROMPT, PROMPT)
        for step in range(1, job.steps + 1):
            it.call(f"step {step}", 1, PROMPT + step)
    print(json.dumps(nodes_of))


if __name__ == "__main__":
    main()
