"""A decoder graph: takes prompts, then one token per step, and gives the logits of each row's last position."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from seap_export.common.providers import CUDA_GRAPH, PROVIDERS
from seap_export.errors import ArtifactError, EnvironmentFailure, UsageError
from seap_export.runtime.decoding.buffers import BufferPool, DecodingBuffers
from seap_export.runtime.decoding.cache import AppendedCache, Cache, CacheLayout, SharedCache, empty_buffers, is_state
from seap_export.runtime.decoding.steps import BoundSteps, Steps
from seap_export.runtime.decoding.tensors import ELEMENTS, Element, float32_of, view
from seap_export.runtime.onnx_model import OnnxModel
from seap_export.runtime.providers import CPU
from seap_export.runtime.session import WORKING_OPERATORS

#: Key in `metadata_props`: how the graph treats its cache, "shared" (the default) or "appended".
CACHE_KEY = "seap_export.cache"
#: Key in `metadata_props`: the length of the longest row whose tokens may be split into calls; without it: any.
SPLIT_KEY = "seap_export.split_up_to"
#: Capacities are multiples of this, so that the allocator sees only a few different sizes.
_BLOCK = 64


class Cancelled(Exception):
    """The caller no longer wants the result."""


def never() -> bool:
    return False


class OnnxDecoder:
    """An opened graph with a KV cache. It holds no state, so any number of decodings may run side by side.

    Attributes:
        context_length: Maximum number of positions.
    """

    def __init__(
        self,
        path: Path,
        context_length: int,
        provider: str = "cpu",
        threads: int | None = None,
        provider_options: Mapping[str, str] | None = None,
    ) -> None:
        """Opens the graph.

        Args:
            path: The .onnx file: inputs input_ids, attention_mask (padded on the right) and
                past_key_values.{i}.key/.value, outputs logits and present.{i}.key/.value, caches and logits in
                float32, float16 or bfloat16. Other states are called past.{i}.NAME and present.{i}.NAME.
            context_length: Maximum number of positions.
            provider: A key of `PROVIDERS`.
            threads: Threads of the session; None: all cores available to this process.

        Raises:
            UsageError: The provider is unknown, `threads` is not positive or a provider option is not supported.
            ArtifactError: The file is missing, damaged or not a decoder graph.
            EnvironmentFailure: The provider is not available, or lacks an operator in the graph's precision.
        """
        self.path, self.context_length = path, context_length
        self._model = OnnxModel(path, provider, threads, provider_options)
        names = [name for name in self._model.inputs if is_state(name)]
        self._layouts = [self._layout(self._model.inputs[name]) for name in names]
        self._refuse_other_graphs()
        self._refuse_work_on_the_cpu(provider)
        self._logits = ELEMENTS[self._model.outputs["logits"].type]
        cache = self._model.metadata.get(CACHE_KEY, "shared")
        if cache not in ("shared", "appended"):
            raise ArtifactError(f"{path}: its {CACHE_KEY} is '{cache}', not 'shared' or 'appended'; export again")
        self._has_shared_cache = cache == "shared"
        if self._model.captures and not self._has_shared_cache:
            raise UsageError(
                f"{path}: its cache moves in each step, so that steps cannot be captured as a CUDA graph; leave the "
                f"provider option {CUDA_GRAPH} out"
            )
        self._buffer_pool = BufferPool(self._model, self._layouts)
        up_to = self._model.metadata.get(SPLIT_KEY, str(context_length))
        if not up_to.isdecimal():
            raise ArtifactError(f"{path}: its {SPLIT_KEY} is '{up_to}', which is no length; export again")
        self._split = _Split(PROVIDERS[provider].longest_call, int(up_to))

    def start(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, cancelled: Callable[[], bool] = never
    ) -> Decoding:
        """Runs the prompts: at least one, each with at least one token.

        Args:
            prompts: Token ids of each row; the rows may differ in length.
            max_new_tokens: Number of steps to reserve room for, within the context length.
            cancelled: Asked before each call of the graph for the prompts.

        Raises:
            ArtifactError: The graph does not run, or its logits have the wrong shape.
            EnvironmentFailure: There is not enough memory.
            Cancelled: It was cancelled.
        """
        model, layouts, rows = self._model, self._layouts, len(prompts)
        decoding_of = partial(Decoding, model, self._logits, prompts, self._split, cancelled)
        if not self._has_shared_cache:
            with model.failures():
                cache = AppendedCache(layouts, rows, model.device)
            return decoding_of(cache)
        capacity = self.capacity(max(map(len, prompts)), max_new_tokens)
        if not model.captures:
            with model.failures():
                buffers = empty_buffers(layouts, rows, capacity, model.device)
            return decoding_of(SharedCache(layouts, rows, capacity, model.device, buffers))
        with model.turn:
            pooled = self._buffer_pool.take(rows, capacity)
        decoding = decoding_of(pooled.cache(), pooled)
        self._buffer_pool.keep_after(decoding, pooled)
        return decoding

    def resume(
        self,
        decoding: Decoding,
        kept: int,
        tokens: Sequence[int],
        max_new_tokens: int,
        cancelled: Callable[[], bool] = never,
    ) -> bool:
        """Continues a decoding of one row with other tokens than those after its first `kept` ones.

        Args:
            decoding: A decoding of this graph, of one row.
            kept: How many of the row's tokens stay.
            tokens: At least one token that follows them.
            max_new_tokens: Number of steps to reserve room for after these, within the context length.
            cancelled: As of `start`.

        Returns:
            Whether it could: steps that are captured, states of a fixed size that would have to be taken back, and a
            cache that would have to grow on a GPU cannot. The decoding is as it was then.

        Raises:
            ArtifactError, EnvironmentFailure, Cancelled: As of `start`; the decoding is of no use then.
        """
        is_shorter = kept < int(decoding.lengths[0])
        if self._model.captures or (is_shorter and not all(layout.grows for layout in self._layouts)):
            return False
        if not decoding.reserve(kept, self.capacity(kept + len(tokens), max_new_tokens)):
            return False
        decoding.extend(tokens, cancelled)
        return True

    def capacity(self, length: int, max_new_tokens: int) -> int:
        """Cache positions for a prompt of that length, no more than the context length.

        Rounded up to a multiple of 64, or if steps are captured to 64 times a power of 2, so that few sizes occur.
        """
        blocks = -(-(length + max_new_tokens) // _BLOCK)
        if self._model.captures:
            blocks = 1 << (blocks - 1).bit_length()
        return min(self.context_length, blocks * _BLOCK)

    def _layout(self, item: Any) -> CacheLayout:
        layout = CacheLayout.of(item)
        if layout is None:
            raise ArtifactError(f"{self.path}: input {item.name} is not a cache with fixed heads; export again")
        return layout

    def _refuse_other_graphs(self) -> None:
        pasts = {layout.past for layout in self._layouts}
        if self._model.inputs.keys() - pasts != {"input_ids", "attention_mask"} or not pasts:
            raise ArtifactError(f"{self.path}: its inputs are not those of a decoder with a KV cache; export again")
        outputs = self._model.outputs
        if not {"logits", *(layout.present for layout in self._layouts)} <= outputs.keys():
            raise ArtifactError(f"{self.path}: its outputs are not those of a decoder with a KV cache; export again")
        if outputs["logits"].type not in ELEMENTS:
            raise ArtifactError(f"{self.path}: its logits are {outputs['logits'].type}; export again")

    def _refuse_work_on_the_cpu(self, provider: str) -> None:
        operators = (self._model.nodes or {}).get(PROVIDERS["cpu"].ort_name, {}) if provider != "cpu" else {}
        left = sorted(WORKING_OPERATORS & operators.keys())
        if left:
            raise EnvironmentFailure(
                f"{self.path}: {', '.join(left)} would run on the CPU, because provider '{provider}' lacks them in "
                "this precision; convert the model to another precision or use --provider cpu"
            )


@dataclass(frozen=True)
class _Split:
    """How tokens are split into calls."""

    longest: int | None
    up_to: int

    def calls(self, rows: int, tokens: int, length: int) -> int:
        """The number of calls for tokens of each row, of which the longest then has `length`."""
        if self.longest is None or rows > 1 or length > self.up_to:
            return 1
        return -(-tokens // self.longest)


class Decoding:
    """Rows that are decoded together.

    Attributes:
        lengths: Number of tokens in each row so far, int64 [rows].
        logits: Next-token logits, float32 [rows, vocabulary]; the next step may overwrite them.
    """

    def __init__(
        self,
        model: OnnxModel,
        element: Element,
        prompts: Sequence[Sequence[int]],
        split: _Split,
        cancelled: Callable[[], bool],
        cache: Cache,
        buffers: DecodingBuffers | None = None,
    ) -> None:
        self._model, self._element, self._cache, self._buffers = model, element, cache, buffers
        self._split = split
        self._binding = model.binding()
        self._steps: Steps | None = None
        self._next = np.zeros((len(prompts), 1), np.int64)
        self.lengths = np.array([len(prompt) for prompt in prompts], np.int64)
        is_real = (np.arange(self.lengths.max()) < self.lengths[:, None]).astype(np.int64)
        input_ids = np.zeros_like(is_real)
        for row, prompt in zip(input_ids, prompts, strict=True):
            row[: len(prompt)] = prompt
        with model.turn:
            self._set_logits(self._run_calls(input_ids, is_real, cancelled))
        if buffers:
            self._binding.clear_binding_outputs()  # the prompts' logits

    def step(self, tokens: Sequence[int], is_active: Sequence[bool] | None = None) -> None:
        """Appends one token to each row and computes the next logits.

        Args:
            tokens: One token per row.
            is_active: Which rows grow; None: all. The other rows keep their tokens; ignore their logits.

        Raises:
            ArtifactError: The graph does not run, or its logits have the wrong shape.
            EnvironmentFailure: There is not enough memory.
        """
        grows = np.ones(len(tokens), np.int64) if is_active is None else np.asarray(is_active, np.int64)
        self.lengths = self.lengths + grows
        self._next[:, 0] = tokens
        mask = self._cache.mask(grows[:, None])
        with self._model.turn:
            if self._steps is None:
                self._steps = self._make_steps()
            self._set_logits(self._steps.run(self._next, mask))

    def reserve(self, kept: int, capacity: int) -> bool:
        """Drops all but the first tokens of the only row, and makes room for as many positions; whether it could."""
        if not self._cache.reserve(kept, capacity):
            return False
        self.lengths = np.array([kept], np.int64)
        return True

    def extend(self, tokens: Sequence[int], cancelled: Callable[[], bool] = never) -> None:
        """Appends tokens to the only row, for which there must be room, and computes the next logits; see `start`."""
        self.lengths = self.lengths + len(tokens)
        self._steps = None  # they have bound a buffer for the logits of one token
        with self._model.turn:
            input_ids = np.array([tokens], np.int64)
            self._set_logits(self._run_calls(input_ids, np.ones_like(input_ids), cancelled))

    def _set_logits(self, logits: NDArray[Any]) -> None:
        self.logits = float32_of(logits, self._element)
        if self._buffers:
            self._buffers.logits = self.logits

    def _make_steps(self) -> Steps:
        rows, vocabulary = self.logits.shape
        if self._buffers:
            return self._buffers.steps(self._element, vocabulary)
        return BoundSteps(self._model, self._binding, self._cache, self._element, rows, vocabulary)

    def _run_calls(
        self, input_ids: NDArray[np.int64], is_real: NDArray[np.int64], cancelled: Callable[[], bool]
    ) -> NDArray[Any]:
        """As `_run_tokens`, in calls of about the same length."""
        calls = self._split.calls(len(input_ids), input_ids.shape[1], int(self.lengths.max()))
        for tokens, are_real in zip(*(np.array_split(part, calls, 1) for part in (input_ids, is_real)), strict=True):
            if cancelled():
                raise Cancelled
            logits = self._run_tokens(tokens, are_real)
        return logits

    def _run_tokens(self, input_ids: NDArray[np.int64], is_real: NDArray[np.int64]) -> NDArray[Any]:
        """The logits of each row's last token, [rows, vocabulary] as the graph stores them."""
        binding, device = self._binding, self._model.device
        if not device.has_addresses:
            device = CPU
        binding.bind_output("logits", device.kind, device.number)
        binding.bind_cpu_input("input_ids", input_ids)
        binding.bind_cpu_input("attention_mask", self._cache.mask(is_real))
        self._cache.bind(binding)
        self._model.run_bound(binding)
        self._cache.advance(binding)
        return self._last_logits(ort.OrtValue(binding.get_outputs_as_ortvaluevector()[0]), is_real)

    def _last_logits(self, value: ort.OrtValue, is_real: NDArray[np.int64]) -> NDArray[Any]:
        sizes, shape, rows = value.shape(), is_real.shape, len(is_real)
        if len(sizes) != 3 or tuple(sizes[:2]) not in (shape, (rows, 1)):
            raise ArtifactError(
                f"{self._model.path}: its logits are {list(sizes)} for tokens {list(shape)}; export again"
            )
        # Some graphs return only the last position.
        columns = is_real.sum(axis=1) - 1 if sizes[1] == shape[1] else np.zeros_like(self.lengths)
        if value.device_name() == "cpu":
            return view(value, self._element)[np.arange(rows), columns]
        storage, vocabulary = self._element.storage, sizes[2]
        # Of a long prompt's logits, which may take more memory than the model, only the last ones leave the GPU.
        offsets = (np.arange(rows) * sizes[1] + columns) * vocabulary * np.dtype(storage).itemsize
        with self._model.failures():
            addresses = (value.data_ptr() + offsets).tolist()
            parts = [self._model.view(address, (1, vocabulary), storage).numpy() for address in addresses]
        return np.concatenate(parts)
