"""The engines that run a model: torch with its cache, or ONNX Runtime with caches updated in place."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from seap_export.runtime.decoder import Decoder, Decoding
from seap_export.runtime.files import decoder_options

__all__ = ["Engine", "EngineName", "open_engine"]

EngineName = Literal["torch", "onnxruntime"]


class Engine(Protocol):
    """A model that continues prompts greedily."""

    def prefill(self, prompts: Sequence[Sequence[int]], steps: int) -> None:
        """Runs prompts of equal length from an empty cache, with room for this many steps."""

    def step(self) -> None:
        """Appends the most likely token to each row."""


class _OnnxEngine:
    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._decoding: Decoding | None = None

    def prefill(self, prompts: Sequence[Sequence[int]], steps: int) -> None:
        self._decoding = None  # frees the buffers of the previous run first
        self._decoding = self._decoder.start(prompts, steps)

    def step(self) -> None:
        if self._decoding is None:
            raise ValueError("step() was called before prefill()")
        self._decoding.step(self._decoding.logits.argmax(axis=1).tolist())


class _TorchEngine:
    def __init__(self, model: Any) -> None:
        self._model = model
        # transformers 5.24 renames the argument and deprecates the old name.
        new_name = "cache" in inspect.signature(type(model).forward).parameters
        self._cache_argument = "cache" if new_name else "past_key_values"
        self._cache: Any = None
        self._last: Any = None

    def prefill(self, prompts: Sequence[Sequence[int]], steps: int) -> None:
        import torch
        from transformers import DynamicCache

        self._cache = DynamicCache()
        self._last = self._run(torch.tensor(prompts))

    def step(self) -> None:
        self._last = self._run(self._last[:, None])

    def _run(self, input_ids: Any) -> Any:
        import torch

        with torch.inference_mode():
            output = self._model(
                input_ids=input_ids, use_cache=True, logits_to_keep=1, **{self._cache_argument: self._cache}
            )
        return output.logits[:, -1].argmax(-1)


@contextlib.contextmanager
def open_engine(
    engine: EngineName, folder: Path, context_length: int, provider: str, threads: int
) -> Iterator[Engine]:
    """Loads a model and frees its memory when the context ends.

    Args:
        engine: The engine.
        folder: The `hf` folder for torch, which runs on the CPU, or the `onnx` folder for ONNX Runtime.
        context_length: Maximum number of positions.
        provider: ONNX Runtime's execution provider.
        threads: Threads of either engine.

    Raises:
        ArtifactError: The folder cannot be loaded.
        EnvironmentFailure: The provider is not available on this machine.
    """
    if engine == "onnxruntime":
        options = decoder_options(folder / "genai_config.json", provider)
        yield _OnnxEngine(Decoder(folder / "model.onnx", context_length, provider, threads, options))
        return
    from validation.torch_runner import open_torch_model

    with open_torch_model(folder, threads) as model:
        yield _TorchEngine(model)
