"""Records what the modules of a torch model compute for token sequences, at the places where a graph is tapped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seap_export.model.families import Attention
from validation.array_store import ArrayStore, StoredArray
from validation.parity.references import TokenSequence
from validation.parity.taps import Tap, decoder_taps
from validation.runtimes.pytorch.torch_runner import Run, TorchRunner
from validation.runtimes.runner import States


@dataclass(frozen=True)
class RecordedSequence:
    """The stored results of torch for one row and its decode steps: values by tap, logits, and the cache."""

    values: dict[str, StoredArray]
    logits: StoredArray
    cache: tuple[Mapping[str, StoredArray], ...]


class Recorder:
    """Records what torch's modules compute: the values of a sequence go to the store after each layer."""

    def __init__(self, runner: TorchRunner, store: ArrayStore) -> None:
        self._runner, self._spec, self._store = runner, runner.spec, store
        self._taps = list(decoder_taps(self._spec))
        self._heads_first = _heads_first(runner)
        self._parts: dict[tuple[str, str], list[NDArray[np.float32]]] = {}

    def references(self, sequences: Sequence[TokenSequence]) -> list[RecordedSequence]:
        """Runs the sequences, and records the values at all taps, the logits and the caches of each."""
        values: list[dict[str, StoredArray]] = [{} for _ in sequences]
        caches: list[list[Mapping[str, StoredArray]]] = [[] for _ in sequences]
        handles = [
            self._runner.model.get_submodule(name).register_forward_hook(partial(self._record, tap, name))
            for tap in self._taps
            for name in tap.modules
        ]

        def keep(number: int, states: States) -> None:
            caches[number].append({state: self._store.put(array) for state, array in states.items()})
            values[number] |= self._flush()

        runs = [Run(sequence.parts(self._spec), len(sequence.prompt) + len(sequence.forced)) for sequence in sequences]
        try:
            logits = []
            for sequence_values, of_logits in zip(values, self._runner.run(runs, keep), strict=True):
                logits.append(self._store.put(of_logits))
                sequence_values |= self._flush()
        finally:
            for handle in handles:
                handle.remove()
        order = [tap.name for tap in self._taps]
        return [
            RecordedSequence({name: sequence_values[name] for name in order}, of_logits, tuple(cache))
            for sequence_values, of_logits, cache in zip(values, logits, caches, strict=True)
        ]

    def _record(self, tap: Tap, name: str, module: Any, inputs: Any, output: Any) -> None:
        value = inputs[0] if tap.side == "input" else output
        if tap.side == "output without bias" and getattr(module, "bias", None) is not None:
            value = value - module.bias
        if name in self._heads_first:
            value = value.transpose(1, 2)
        tokens = value[0] if value.dim() > 2 else value  # experts get the tokens of all rows, of which there is one
        by_channel = tokens.float().flatten(1) * tap.factor  # [tokens, channels]
        self._parts.setdefault((tap.name, name), []).append(by_channel[:, tap.channels or slice(None)].cpu().numpy())

    def _flush(self) -> dict[str, StoredArray]:
        """Stores the recorded values of one sequence, by tap."""
        stored = {}
        for tap in self._taps:
            if all((tap.name, name) in self._parts for name in tap.modules):
                parts = [np.concatenate(self._parts.pop((tap.name, name))) for name in tap.modules]
                stored[tap.name] = self._store.put(np.concatenate(parts, axis=1))
        return stored


def _heads_first(runner: TorchRunner) -> frozenset[str]:
    """The norms of heads that get [batch, heads, tokens, head_dim], and not [batch, tokens, heads, head_dim].

    A sequence shows it whose number of tokens is no number of heads.
    """
    spec = runner.spec
    tokens = max(attention.num_attention_heads for attention in spec.all(Attention)) + 1
    heads_first, handles = set(), []

    def note(name: str, module: Any, inputs: Any, output: Any) -> None:
        if output.dim() == 4 and output.shape[2] == tokens:
            heads_first.add(name)

    for index, layer in enumerate(spec.layers):
        every = (sublayer for sublayer in layer.sublayers if isinstance(sublayer, Attention))
        for norm in (norm for attention in every for norm in attention.inner_norms()):
            name = spec.family.module(norm, index)
            handles.append(runner.model.get_submodule(name).register_forward_hook(partial(note, name)))
    if handles:
        next(runner.run([Run([[0] * tokens], 1)]))
    for handle in handles:
        handle.remove()
    return frozenset(heads_first)
