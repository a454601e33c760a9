"""Calibration: a task's texts go through the dense model once, layer by layer."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from seap_export.model.families.names import Projection
from seap_export.model.layers.batches import length_buckets
from seap_export.model.layers.compute import Compute
from seap_export.model.layers.hidden_states import HiddenStates, SublayerPass
from seap_export.model.layers.kept import UNFINISHED, keep_tensors, kept_tensors, path_of
from seap_export.model.layers.layer import DecoderLayer
from seap_export.model.layers.streams import StreamStorage, choose_storage
from seap_export.model.sources.source import Source
from seap_export.pruning.activations.observers import observer
from seap_export.pruning.activations.sensitivity import SENSITIVITY_TOKENS, Backward, sensitivity_texts
from seap_export.pruning.activations.statistics import (
    TOKENS,
    SublayerStatistics,
    has_layers,
    has_sensitivity,
    write_layer,
    write_sensitivity,
    write_tokens,
)
from seap_export.pruning.activations.walk_check import WalkCheck, refuse_too_large

_STREAM, _CHECK = "stream", "check"


def collect_statistics(
    source: Source,
    token_ids: Sequence[Sequence[int]],
    folder: Path,
    compute: Compute | None = None,
    *,
    check: bool = True,
    on_layer: Callable[[int], None] = lambda layer: None,
) -> None:
    """Writes all statistics of a task's texts but the record, one layer at a time.

    It continues what an interrupted call with the same arguments left in the folder; at most one layer is computed
    again. Memory holds one layer, the covariance of one sublayer, and the hidden states of all tokens if they fit.

    Args:
        source: The dense model.
        token_ids: Token ids of the calibration texts.
        folder: An existing folder: empty, or with what was left there.
        compute: Where layers are computed, and with how much memory; it affects the speed, and at most the rounding.
        check: Whether transformers' own class runs along and is compared.
        on_layer: Called with the index of each layer whose statistics are on disk.

    Raises:
        InputError: A weight is not finite, or the model computes something else than transformers does.
        EnvironmentFailure: The installed transformers has no class of the model's family.
    """
    layers, unfinished = len(source.spec.layers), folder / UNFINISHED
    write_tokens(folder / TOKENS, token_ids)
    if not (has_sensitivity(folder) and has_layers(folder, layers)):
        unfinished.mkdir(exist_ok=True)
        with torch.no_grad():
            run = _Run(source, token_ids, folder, compute or Compute(), check)
            for index in range(layers):
                run.layer(index)
                on_layer(index)
            write_sensitivity(folder, run.sensitivity())
    else:
        for index in range(layers):
            on_layer(index)
    shutil.rmtree(unfinished, ignore_errors=True)


def storage_for(source: Source, token_ids: Sequence[Sequence[int]], folder: Path, compute: Compute) -> StreamStorage:
    """Where `collect_statistics` keeps the hidden states of these texts."""
    return choose_storage(source.spec, sum(map(len, token_ids)), compute, folder / UNFINISHED)


class _Run:
    """The hidden states of the real tokens, advanced layer by layer, from wherever an earlier run came to."""

    def __init__(
        self, source: Source, token_ids: Sequence[Sequence[int]], folder: Path, compute: Compute, check: bool
    ) -> None:
        self._source, self._compute, self._folder = source, compute, folder
        self._unfinished = folder / UNFINISHED
        texts = sensitivity_texts(token_ids)
        first = length_buckets(token_ids[:texts], SENSITIVITY_TOKENS, compute.device)
        batches = first + length_buckets(token_ids[texts:], compute.batch_tokens, compute.device)
        self._streams = storage_for(source, token_ids, folder, compute).streams(_STREAM, source.spec, batches)
        self._backward = Backward(source, first, self._unfinished, compute.device)
        self._check: WalkCheck | None = None
        self._hidden = HiddenStates(batches, self._streams)
        self._next = self._start(token_ids, check)

    def _start(self, token_ids: Sequence[Sequence[int]], check: bool) -> int:
        """Sets the streams of the first layer that is to be computed; returns its index."""
        layers = len(self._source.spec.layers)
        if self._backward.has_begun and self._has_all_before(layers):
            return layers
        self._backward.forget()
        saved = [
            index
            for index in self._streams.saved()
            if self._has_all_before(index) and (not check or self._path_of_check(index).is_file())
        ]
        if check or not saved:
            embedding = self._source.read_embedding()
            if check:
                self._check = WalkCheck(self._source, token_ids, embedding)
            if not saved:
                HiddenStates.embedded(self._source.spec, embedding, self._hidden.batches, self._streams)
                return 0
        if self._check is not None:
            self._check.restore(kept_tensors(self._path_of_check(saved[-1])))
        self._streams.load(saved[-1])
        return saved[-1]

    def _has_all_before(self, index: int) -> bool:
        """Whether everything is there that was kept of the layers before one."""
        return has_layers(self._folder, index) and self._backward.has_inputs(index)

    def _path_of_check(self, index: int) -> Path:
        return path_of(self._unfinished, _CHECK, index)

    def layer(self, index: int) -> None:
        """Runs one layer, unless it was done before, and replaces the hidden states by its output."""
        if index < self._next:
            return
        self._backward.keep_inputs(index, [self._streams[batch] for batch in range(self._backward.number)])
        tensors = self._source.read_layer(index)
        if self._check is not None:
            self._check.layer(index, tensors)
        outputs = self._source.spec.layers[index].outputs
        write_layer(self._folder, index, {output: self._sublayer(index, output, tensors) for output in outputs})
        self._save(index + 1)

    def _sublayer(self, index: int, output: Projection, tensors: dict[str, torch.Tensor]) -> SublayerStatistics:
        layer = DecoderLayer(self._source.spec, index, tensors, self._compute.device, only=output)
        kept = observer(layer, output, self._hidden, self._unfinished)

        def see(passed: SublayerPass) -> None:
            refuse_too_large(self._source.name, f"layer {index}", passed.stream)
            kept.see(passed)

        self._hidden.advance(layer, output, see)
        return SublayerStatistics(kept.moments(), kept.tensors())

    def _save(self, index: int) -> None:
        """Keeps all that the layer needs which comes next."""
        if self._check is not None:
            keep_tensors(self._path_of_check(index), self._check.state())
        self._streams.save(index)
        self._streams.forget(index)
        self._path_of_check(index - 1).unlink(missing_ok=True)

    def sensitivity(self) -> torch.Tensor:
        """The sensitivities; call it after the last layer."""
        if not self._backward.has_begun:
            norm = self._source.read_norm()
            head = self._source.read_head()
            if self._check is not None:
                self._check.logits(norm, head)
            outputs = [self._streams[batch] for batch in range(self._backward.number)]
            self._backward.begin(norm, head, outputs)
        return self._backward.run()
