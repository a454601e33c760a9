"""Records what the modules of a torch model compute for token sequences, at the places where a graph is tapped."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seap_export.model.families import Attention
from validation.array_store import ArrayStore, StoredArray
from validation.parity.references import Reference, TokenSequence, run_references
from validation.parity.taps import Tap, decoder_taps
from validation.prompts import Case
from validation.runtimes.pytorch.torch_runner import Run, TorchRunner


class Recorder:
    """Records what torch's modules compute: the values of a sequence go to the store after each layer.

    Attributes:
        values: The stored values of each sequence, by tap.
    """

    def __init__(self, runner: TorchRunner, store: ArrayStore) -> None:
        self._runner, self._store = runner, store
        self._taps = list(decoder_taps(runner.spec))
        self._heads_first = _heads_first(runner)
        self._parts: dict[tuple[str, str], list[NDArray[np.float32]]] = {}
        self.values: defaultdict[TokenSequence, dict[str, StoredArray]] = defaultdict(dict)

    def references(self, case: Case) -> dict[TokenSequence, Reference]:
        """Runs a case as parity does, and records the values at all taps."""
        handles = [
            self._runner.model.get_submodule(name).register_forward_hook(partial(self._record, tap, name))
            for tap in self._taps
            for name in tap.modules
        ]
        try:
            return run_references(self._runner, [case], self._store, self._runner.spec, lambda line: None, self._flush)
        finally:
            for handle in handles:
                handle.remove()

    def _record(self, tap: Tap, name: str, module: Any, inputs: Any, output: Any) -> None:
        value = inputs[0] if tap.side == "input" else output
        if tap.side == "output without bias" and getattr(module, "bias", None) is not None:
            value = value - module.bias
        if name in self._heads_first:
            value = value.transpose(1, 2)
        tokens = value[0] if value.dim() > 2 else value  # experts get the tokens of all rows, of which there is one
        by_channel = tokens.float().flatten(1) * tap.factor  # [tokens, channels]
        self._parts.setdefault((tap.name, name), []).append(by_channel[:, tap.channels or slice(None)].cpu().numpy())

    def _flush(self, sequence: TokenSequence) -> None:
        """Stores what was recorded of a sequence."""
        for tap in self._taps:
            if all((tap.name, name) in self._parts for name in tap.modules):
                parts = [np.concatenate(self._parts.pop((tap.name, name))) for name in tap.modules]
                self.values[sequence][tap.name] = self._store.put(np.concatenate(parts, axis=1))


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
