"""Runs a folder of mlx-lm: a prompt, then more tokens, with mlx-lm's own caches.

A batch is padded on the left, as mlx-lm does it, and comes back padded on the right.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from seap_export.common.extras import install_remedy
from seap_export.errors import ArtifactError, EnvironmentFailure
from validation.runtimes.runner import Layers, Logits, Opening, Runner, States, real_lengths, reported
from validation.runtimes.timing import Pace, timed_loop


class MlxRunner(Runner):
    """Runs one generation after another with one model; `prefill` starts a new one, `step` continues it.

    Not the copy of the model file in the folder is run, but ours, which is the same unless the folder is damaged.

    Args:
        in_float32: Whether everything is computed in float32, quantised weights as they are: exact to about 1e-4.
            Otherwise in the dtype of the folder, as mlx-lm does.

    Attributes:
        needs_float32: Whether MLX computes on the CPU, where products of quantised weights with 16-bit numbers take 30
            times as long as with float32, and those of experts have float32 alone.
    """

    runtime: ClassVar[str] = "mlx"
    extra: ClassVar[str | None] = "mlx"

    def __init__(self, folder: Path, *, in_float32: bool = False) -> None:
        try:
            self._mx = importlib.import_module("mlx.core")
            self._caches = importlib.import_module("mlx_lm.models.cache")
            utils = importlib.import_module("mlx_lm.utils")
        except ImportError as error:
            raise EnvironmentFailure(f"mlx-lm is missing ({error}); {install_remedy('mlx')}") from error
        file: Any = importlib.import_module("converters.mlx.modeling_mlx")
        with reported(f"{folder}: mlx-lm cannot load it", kind=ArtifactError):
            self._model, config = utils.load_model(
                folder,
                model_config={"model_file": None},
                get_model_classes=lambda config: (file.Model, file.ModelArgs),
            )
        if in_float32:
            self.compute_in_float32()
        is_slow = "quantization" in config or any("experts" in layer for layer in config["decoder"]["layers"])
        self.needs_float32 = is_slow and self._mx.default_device() == self._mx.cpu
        self._cache: list[Any] = []
        self._rows = 0

    def compute_in_float32(self) -> None:
        """Casts the model's floating-point weights to float32, in which it then computes."""
        self._model.set_dtype(self._mx.float32)

    def prefill(self, input_ids: NDArray[np.int64], lengths: Sequence[int], room: int = 0) -> Logits:
        """Runs the prompts from empty caches, which grow; logits after the real tokens are 0."""
        (rows, width), real = input_ids.shape, real_lengths(input_ids, lengths)
        padding = [int(real.max() - length) for length in real]
        shifted = np.zeros((rows, real.max()), np.int64)
        for row_ids, ids, length in zip(shifted, input_ids, real, strict=True):
            row_ids[real.max() - length :] = ids[:length]
        self._rows = rows
        self._cache = self._empty(padding)
        computed = self._run(shifted, "prefill")
        logits = np.zeros((rows, width, computed.shape[2]), np.float32)
        for row, length in enumerate(real):
            logits[row, :length] = computed[row, padding[row] :]
        return logits

    def append(self, input_ids: NDArray[np.int64]) -> Logits:
        return self._run(input_ids, "a decode step")

    def timed(self, prompt: Sequence[int], steps: int) -> Pace:
        """Times a generation as mlx-lm runs it: the LM head sees the last token of the prompt alone."""
        self._cache = self._empty([0])

        def first() -> int:
            if len(prompt) > 1:
                self._model(self._mx.array([list(prompt[:-1])]), cache=self._cache)
                self._mx.eval([layer.state for layer in self._cache])  # the logits are not
            return following(int(prompt[-1]))

        def following(token: int) -> int:
            return int(self._model(self._mx.array([[token]]), cache=self._cache)[0, -1].argmax().item())

        with reported("mlx-lm does not run a generation"):
            return timed_loop(first, following, steps)

    def cache(self, row: int) -> Layers | None:
        """The keys and values of each layer, [KV heads, tokens of the row, head_dim]; None: one keeps others."""
        if not all(isinstance(layer, self._caches.KVCache | self._caches.BatchKVCache) for layer in self._cache):
            return None
        caches = iter(self._cache)
        return (
            self._keys_and_values(next(caches), row) if layer.lender is None else {} for layer in self._model.layers
        )

    def close(self) -> None:
        self._cache = []
        self._model = None

    def _empty(self, padding: Sequence[int]) -> list[Any]:
        caches = self._model.make_cache()
        if len(padding) == 1:
            return list(caches)
        return [self._for_batch(layer, list(padding)) for layer in caches]

    def _for_batch(self, cache: Any, padding: list[int]) -> Any:
        """An empty cache of the kind of `cache` for rows that are padded on the left."""
        if isinstance(cache, self._caches.ArraysCache):
            return self._caches.ArraysCache(len(cache.cache), padding)
        if isinstance(cache, self._caches.RotatingKVCache):
            return self._caches.BatchRotatingKVCache(cache.max_size, padding)
        return self._caches.BatchKVCache(padding)

    def _run(self, input_ids: NDArray[np.int64], what: str) -> Logits:
        with reported(f"mlx-lm does not run {what}"):
            logits = self._model(self._mx.array(input_ids), cache=self._cache)
            return np.array(logits.astype(self._mx.float32))

    def _keys_and_values(self, cache: Any, row: int) -> States:
        of_row = cache if self._rows == 1 else cache.extract(row)
        keys, values = (np.array(part[0].astype(self._mx.float32)) for part in of_row.keys_and_values())
        return {"key": keys, "value": values}


def open_mlx(folder: Path, opening: Opening) -> MlxRunner:
    """Opens a folder as mlx-lm runs it, in float32 where it has to be; MLX has no setting for threads."""
    runner = MlxRunner(folder)
    if runner.needs_float32:
        runner.compute_in_float32()
    return runner
