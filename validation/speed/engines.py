"""The engines that run a model: torch with its cache, ONNX Runtime with caches updated in place, and other
runtimes as they are served.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from seap_export.runtime.decoding.decoder import Decoding, OnnxDecoder
from seap_export.runtime.files import decoder_options
from validation.execution import Execution
from validation.quiet import quiet_transformers
from validation.runtimes.runner import Bounded, Runner, TimesItself
from validation.runtimes.table import REFERENCE, open_runtime
from validation.runtimes.timing import Pace, timed_loop

#: "torch", or a runtime of `validation.runtimes.table`.
EngineName = str


class Engine(Protocol):
    """A model opened on an engine, which continues prompts greedily and times that."""

    def takes(self, rows: int, tokens: int) -> bool:
        """Whether it can run `rows` prompts at a time, each of `tokens` tokens with the steps after it."""

    def pace(self, prompts: Sequence[Sequence[int]], steps: int) -> Pace:
        """Times prompts of equal length, from an empty cache, and `steps` tokens after each, the most likely ones."""


class _AnySize:
    def takes(self, rows: int, tokens: int) -> bool:
        return True


class _OnnxEngine(_AnySize):
    def __init__(self, decoder: OnnxDecoder) -> None:
        self._decoder = decoder
        self._decoding: Decoding | None = None

    def pace(self, prompts: Sequence[Sequence[int]], steps: int) -> Pace:
        self._decoding = None  # frees the buffers of the previous run first
        return timed_loop(partial(self._start, prompts, steps), self._step, steps)

    def _start(self, prompts: Sequence[Sequence[int]], steps: int) -> list[int]:
        self._decoding = self._decoder.start(prompts, steps)
        return _likeliest(self._decoding.logits)

    def _step(self, tokens: list[int]) -> list[int]:
        assert self._decoding is not None
        self._decoding.step(tokens)
        return _likeliest(self._decoding.logits)


class _TorchEngine(_AnySize):
    def __init__(self, model: Any) -> None:
        self._model = model
        # transformers 5.24 renames the argument and deprecates the old name.
        new_name = "cache" in inspect.signature(type(model).forward).parameters
        self._cache_argument = "cache" if new_name else "past_key_values"

    def pace(self, prompts: Sequence[Sequence[int]], steps: int) -> Pace:
        import torch
        from transformers import DynamicCache

        cache = DynamicCache(config=self._model.config)
        return timed_loop(
            lambda: self._run(torch.tensor(prompts), cache), lambda last: self._run(last[:, None], cache), steps
        )

    def _run(self, input_ids: Any, cache: Any) -> Any:
        import torch

        with torch.inference_mode():
            output = self._model(
                input_ids=input_ids, use_cache=True, logits_to_keep=1, **{self._cache_argument: cache}
            )
        return output.logits[:, -1].argmax(-1)


class _RunnerEngine:
    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def takes(self, rows: int, tokens: int) -> bool:
        runner = self._runner
        if isinstance(runner, Bounded) and tokens > runner.context_length:
            return False
        return rows == 1 or (runner.batches and not isinstance(runner, TimesItself))

    def pace(self, prompts: Sequence[Sequence[int]], steps: int) -> Pace:
        return pace_of(self._runner, prompts, steps)


def pace_of(runner: Runner, prompts: Sequence[Sequence[int]], steps: int) -> Pace:
    """Times prompts of equal length and `steps` tokens after each, the most likely ones."""
    if isinstance(runner, TimesItself):
        (prompt,) = prompts
        return runner.timed(prompt, steps)
    ids, lengths = np.asarray(prompts, np.int64), [len(prompt) for prompt in prompts]
    return timed_loop(
        lambda: _likeliest(runner.prefill(ids, lengths, steps)[:, -1]),
        lambda tokens: _likeliest(runner.step(tokens)),
        steps,
    )


def _likeliest(logits: NDArray[np.float32]) -> list[int]:
    """The most likely token id of each row of logits [rows, vocabulary]."""
    tokens: list[int] = logits.argmax(axis=1).tolist()
    return tokens


@contextlib.contextmanager
def open_engine(engine: EngineName, folder: Path, context_length: int, execution: Execution) -> Iterator[Engine]:
    """Loads a model and frees its memory when the context ends.

    Args:
        folder: The `hf` folder for torch, which runs on the CPU, or one of a format that the runtime takes.
        context_length: Maximum number of positions.
        execution: Provider, threads and memory of the run; torch runs on the CPU.

    Raises:
        ArtifactError: The folder cannot be loaded.
        EnvironmentFailure: The provider is not available on this machine, or the model does not fit in its memory.
    """
    if engine == "onnxruntime":
        provider = execution.provider
        options = decoder_options(folder / "genai_config.json", provider)
        yield _OnnxEngine(OnnxDecoder(folder / "model.onnx", context_length, provider, execution.threads, options))
        return
    if engine != REFERENCE:
        with contextlib.closing(open_runtime(engine, folder, execution, "served")) as other:
            yield _RunnerEngine(other)
        return
    from validation.runtimes.pytorch.torch_runner import open_torch_runner

    torch_runner = open_torch_runner(folder, replace(execution, compute=None), attention=None)
    with quiet_transformers(), torch_runner as runner:  # hybrids say which kernels are missing
        yield _TorchEngine(runner.whole_model())
