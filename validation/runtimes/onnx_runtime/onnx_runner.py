"""Runs an exported decoder as the runner does: a prompt, then more tokens, with the KV cache the graph declares.

Batches are padded on the RIGHT; each decode step adds a 1 to every row of the mask. GroupQueryAttention writes into a
shared buffer, on the device: row b's new key and value go to position sum(mask[b]) - 1, so that a row's cache stays
contiguous, and whatever follows it is ignored. Attention of the ONNX standard takes the mask as it is: the new key and
value come after the padding, which stays hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from converters.onnx.graph.all_logits import with_all_logits
from seap_export.errors import ArtifactError, ParityFailure
from seap_export.runtime.decoding.cache import AppendedCache, Cache, CacheLayout, SharedCache, empty_buffers, is_state
from seap_export.runtime.decoding.decoder import CACHE_KEY, SPLIT_KEY
from seap_export.runtime.decoding.tensors import ELEMENTS, Element, float32_of, narrowed, view
from seap_export.runtime.failures import environment_failure
from seap_export.runtime.providers import CPU, device_of, one_line
from seap_export.runtime.session import ORT_ERRORS, open_session
from validation.execution import Execution, Say
from validation.runtimes.runner import Layers, Logits, Opening, Runner, States, common_start, real_lengths
from validation.session_memory import Calls, claim_memory, session_memory

#: The largest change of a logit that is rounding, over the largest logit.
_SAME = 1e-2
#: Padding on the left, and a hole.
_BAD_MASKS = ([0, 1, 1], [1, 0, 1])


class OnnxRunner(Runner):
    """Runs one generation after another with one session; see `Runner`.

    Args:
        taps: Names of further outputs of the graph.
        shares_start: Whether what all rows begin with may run once, where it gives the same; other rows follow it.

    Attributes:
        gives_last_only: Whether the graph gives the logits of each row's last token only.
        tapped: The further outputs of the latest call, by name, in float32.
    """

    runtime: ClassVar[str] = "onnxruntime"

    def __init__(self, session: ort.InferenceSession, taps: Sequence[str] = (), *, shares_start: bool = False) -> None:
        """Reads each layer's KV heads from the session's inputs."""
        self._session = session
        inputs = {item.name: item for item in session.get_inputs()}
        caches = {name: item for name, item in inputs.items() if is_state(name)}
        unknown = sorted(inputs.keys() - caches.keys() - {"input_ids", "attention_mask"})
        if unknown or not caches or not {"input_ids", "attention_mask"} <= inputs.keys():
            raise ArtifactError(
                f"the ONNX graph's inputs are not those of a decoder with a KV cache: {list(inputs)}; export it again"
            )
        self._layouts = [_layout(item) for item in caches.values()]
        self._layers = _by_layer(self._layouts)
        self._taps = list(taps)
        self.tapped: dict[str, NDArray[np.float32]] = {}
        outputs = {item.name: item for item in session.get_outputs()}
        missing = sorted({"logits", *(layout.present for layout in self._layouts), *taps} - outputs.keys())
        if missing:
            raise ArtifactError(f"the ONNX graph lacks the outputs {', '.join(missing)}; export it again")
        self.gives_last_only = outputs["logits"].shape[1:2] == [1]
        notes = session.get_modelmeta().custom_metadata_map
        self._is_shared = notes.get(CACHE_KEY, "shared") == "shared"
        self._device = device_of(session)
        can_rewind = self._is_shared and self._device == CPU and all(layout.grows for layout in self._layouts)
        #: The longest row whose start may run apart from the rest.
        self._shared_up_to = float(notes.get(SPLIT_KEY, "inf")) if shares_start and can_rewind else 0
        self._is_real: NDArray[np.int64] = np.zeros((0, 0), np.int64)
        self._started: tuple[ort.IOBinding, Cache] | None = None

    def prefill(self, input_ids: NDArray[np.int64], lengths: Sequence[int], room: int = 0) -> Logits:
        (rows, width), real = input_ids.shape, real_lengths(input_ids, lengths)
        self._is_real = (np.arange(width) < real[:, None]).astype(np.int64)
        if real.max() <= self._shared_up_to and (common := common_start(input_ids, lengths)):
            return self._behind(common, input_ids, real, width + room)
        cache = self._start(rows, width + room)
        return self._run(input_ids, cache.mask(self._is_real))

    def fill(self, states: Iterator[States], tokens: int, room: int) -> None:
        self._is_real = np.ones((1, tokens), np.int64)
        cache = self._start(1, tokens + room, filled=tokens)
        for layer, made_up in zip(self._layers, states, strict=True):
            for state, layout in layer.items():
                stored = _stored(cache.buffers[layout.past], layout.element).copy()
                stored[0, :, :tokens] = narrowed(made_up[state], layout.element)
                cache.buffers[layout.past].update_inplace(stored)
        if self._is_shared:  # counts them as a prompt
            cache.mask(self._is_real)

    def append(self, input_ids: NDArray[np.int64]) -> Logits:
        if self._started is None:
            raise ValueError("tokens are appended before there is a prompt")
        new = np.ones_like(input_ids)
        self._is_real = np.concatenate([self._is_real, new], axis=1)
        return self._run(input_ids, self._started[1].mask(new), what="a decode step")

    def misreads_masks(self) -> bool:
        """Whether a row with padding before one of its tokens is computed wrongly, without a sign of it.

        The signs are an error, or logits that are not finite at any position of that row, while the other row keeps
        its own. Earlier tokens are forgotten.
        """
        ids = np.tile(np.arange(3, dtype=np.int64), (2, 1))
        whole = self.prefill(ids, [3, 3])[0]
        # If it is not finite, that is a defect that parity reports by itself.
        return bool(np.isfinite(whole).all()) and any(self._misreads(ids, mask, whole) for mask in _BAD_MASKS)

    def _misreads(self, ids: NDArray[np.int64], mask: Sequence[int], whole: Logits) -> bool:
        """Whether the graph misreads this mask of the second row; `whole` are the logits of the first."""
        real = np.flatnonzero(mask)
        # A graph that takes the mask as it is may compute the row rightly.
        truth = None if self._is_shared else self.prefill(ids[:1, real], [len(real)])[0, -1]
        self._start(2, len(mask))
        try:
            computed, padded = self._run(ids, np.array([[1] * len(mask), mask]), what="a row with such a mask")
        except ParityFailure:
            return False
        is_sound = truth is not None and _is_same(padded[-1], truth)
        is_marked = not np.isfinite(padded).all(axis=1).any()
        return not ((is_sound or is_marked) and _is_same(computed, whole))

    def cache(self, row: int) -> Layers:
        if self._started is None:
            raise ValueError("a cache is read before there is a prompt")
        buffers, real = self._started[1].buffers, self._is_real[row]
        positions = np.arange(real.sum()) if self._is_shared else np.flatnonzero(real)
        for layer in self._layers:
            yield {state: _of_row(buffers, layout, row, positions) for state, layout in layer.items()}

    def close(self) -> None:
        """Gives up the session and the cache; nothing runs after it."""
        self._started = None
        del self._session

    def _behind(self, common: int, input_ids: NDArray[np.int64], real: NDArray[np.int64], capacity: int) -> Logits:
        """Runs what all rows begin with, and behind it each row's other tokens, and gives all rows a common cache."""
        rows, alone = len(real), self._start(1, capacity)
        together = self._empty(rows, capacity)
        begun = self._run(input_ids[:1, :common], alone.mask(np.ones((1, common), np.int64)))
        logits = np.zeros((rows, 1 if self.gives_last_only else input_ids.shape[1], begun.shape[2]), np.float32)
        for row, length in enumerate(real):
            others = input_ids[row : row + 1, common:length]
            alone.reserve(common, capacity)
            following = self._run(others, alone.mask(np.ones_like(others)))[0]
            written = following if self.gives_last_only else np.concatenate([begun[0], following])
            logits[row, : len(written)] = written
            for layout in self._layouts:
                own, all_rows = (view(cache.buffers[layout.past], layout.element) for cache in (alone, together))
                all_rows[row] = own[0]
        together.mask(self._is_real)  # counts them as prompts
        self._started = self._session.io_binding(), together
        return logits

    def _start(self, rows: int, capacity: int, filled: int = 0) -> Cache:
        """An empty cache; the one before is freed first."""
        self._started = None
        with _reported("allocate a cache"):
            cache = self._empty(rows, capacity, filled)
        self._started = self._session.io_binding(), cache
        return cache

    def _empty(self, rows: int, capacity: int, filled: int = 0) -> Cache:
        if self._is_shared:
            buffers = empty_buffers(self._layouts, rows, capacity, self._device)
            return SharedCache(self._layouts, rows, capacity, self._device, buffers)
        # On the host, from where it can be read in any dtype. No kernel depends on where a cache that is copied lies.
        return AppendedCache(self._layouts, rows, CPU, filled)

    def _run(self, input_ids: NDArray[np.int64], mask: NDArray[np.int64], what: str = "prefill") -> Logits:
        if self._started is None:
            raise ValueError("a graph runs without a cache")
        binding, cache = self._started
        with _reported(f"run {what}"):
            binding.bind_cpu_input("input_ids", input_ids)
            binding.bind_cpu_input("attention_mask", mask)
            binding.bind_output("logits", "cpu")  # first, as the cache expects
            cache.bind(binding)
            for name in self._taps:
                binding.bind_output(name, "cpu")
            self._session.run_with_iobinding(binding)
        cache.advance(binding)
        outputs = binding.get_outputs()
        logits = _float32(outputs[0])
        rows, length = input_ids.shape[0], 1 if self.gives_last_only else input_ids.shape[1]
        if logits.ndim != 3 or logits.shape[:2] != (rows, length):
            raise ParityFailure(
                f"the ONNX graph's logits of {what} have the shape {list(logits.shape)}; expected "
                f"[{rows}, {length}, vocabulary]"
            )
        tapped = outputs[1 + len(self._layouts) :]
        self.tapped = {name: _float32(value) for name, value in zip(self._taps, tapped, strict=True)}
        return logits


def open_onnx_runtime(folder: Path, opening: Opening) -> OnnxRunner:
    """Opens the graph of a folder; to score texts, one with the logits of last tokens alone is changed to give all."""
    model, execution = folder / "model.onnx", opening.execution
    mapped = bool(opening.calls) and claim_memory(model, opening.calls, execution)
    graph = with_all_logits(model) if opening.purpose == "scored" else None
    session = open_session(model, execution.provider, execution.threads, graph=graph, mapped=mapped)
    return OnnxRunner(session, shares_start=opening.purpose in ("scored", "asked"))


def claim_onnx_runtime(folder: Path, calls: Sequence[Calls], execution: Execution, say: Say, *, can_map: bool) -> None:
    """Claims memory for a session; see `validation.runtimes.table.claim_runtime`."""
    claim_memory(folder / "model.onnx", calls, execution, say, can_map=can_map)


def onnx_runtime_memory(folder: Path, calls: Calls, provider: str) -> int:
    """Estimates the memory of a session; see `validation.runtimes.table.memory_about`."""
    return session_memory(folder / "model.onnx", [calls], provider).total


def _is_same(logits: Logits, truth: Logits) -> bool:
    return bool(np.allclose(logits, truth, rtol=0, atol=_SAME * np.abs(truth).max()))


def _layout(item: Any) -> CacheLayout:
    layout = CacheLayout.of(item)
    if layout is None:
        raise ArtifactError(
            f"the ONNX graph's input {item.name} is {item.type} {item.shape}; expected a float32, float16 or bfloat16 "
            "tensor with a fixed number of KV heads in dimension 1 and a fixed head size in dimension 3"
        )
    return layout


def _by_layer(layouts: Sequence[CacheLayout]) -> list[dict[str, CacheLayout]]:
    """The states of each layer by name, such as `key` for `past_key_values.0.key`."""
    layers: dict[int, dict[str, CacheLayout]] = {}
    for layout in layouts:
        _, index, state = layout.past.split(".")
        layers.setdefault(int(index), {})[state] = layout
    return [layers[index] for index in sorted(layers)]


def _of_row(
    buffers: Mapping[str, ort.OrtValue], layout: CacheLayout, row: int, positions: NDArray[np.intp]
) -> NDArray[np.float32]:
    stored = _stored(buffers[layout.past], layout.element)[row]
    return float32_of(stored[:, positions[positions < stored.shape[1]]] if layout.grows else stored, layout.element)


def _stored(buffer: ort.OrtValue, element: Element) -> NDArray[Any]:
    """A buffer's numbers as `element.storage`, wherever it lies."""
    return view(buffer, element) if buffer.device_name() == "cpu" else buffer.numpy()


def _float32(value: ort.OrtValue) -> NDArray[np.float32]:
    """Copies an `OrtValue` in the host's memory to a float32 array."""
    element = ELEMENTS[value.data_type()]
    return float32_of(view(value, element).copy(), element)


@contextmanager
def _reported(what: str) -> Iterator[None]:
    """Says what could not be done, and whether the machine or the graph is to blame."""
    try:
        yield
    except ORT_ERRORS as error:
        reason = f"the ONNX graph does not {what}"
        raise environment_failure(error, reason) or ParityFailure(f"{reason}: {one_line(error)}") from error
