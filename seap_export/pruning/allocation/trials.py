"""Tries plans: refits a plan's layers on a few texts, and measures its divergence from the dense model on others."""

from __future__ import annotations

from pathlib import Path

import torch

from seap_export.model.layers.batches import length_buckets, token_weights
from seap_export.model.layers.compute import Compute
from seap_export.model.layers.hidden_states import HiddenStates, log_predictions
from seap_export.model.layers.recorded import Recording, copies
from seap_export.model.layers.streams import choose_storage
from seap_export.model.layers.working_memory import LOGIT_TOKENS
from seap_export.model.sources.source import Source
from seap_export.pruning.allocation.texts import TrialTexts
from seap_export.pruning.plan.plan import Plan
from seap_export.pruning.shrink.refit_streams import RefitStreams


class Trials:
    """Measures plans of one model on the same texts. The dense model runs once, when this is made."""

    @torch.no_grad()
    def __init__(self, source: Source, texts: TrialTexts, folder: Path, compute: Compute) -> None:
        self._source, self._tokens, self._device = source, texts.effective_tokens, compute.device
        spec, every = source.spec, [ids for ids, _ in (*texts.fitted, *texts.judged)]
        self._batches = length_buckets(every, compute.batch_tokens, compute.device)
        # Both parts go through the layers together; a part counts nothing where the other one does.
        nothing = [[(ids, 0.0) for ids, _ in part] for part in (texts.fitted, texts.judged)]
        self._fits = token_weights(self._batches, [*texts.fitted, *nothing[1]])
        self._judges = token_weights(self._batches, [*nothing[0], *texts.judged])
        # The recording, the dense model's last hidden states, and both streams of a trial.
        storage = choose_storage(spec, sum(map(len, every)), compute, folder, copies(spec) + 3)
        self._room = storage.room(compute, spec)
        size = sum(spec.prunable_weights(index) for index in range(len(spec.layers))) * source.dtype.itemsize
        # Layers stay in memory if they fit, since a GGUF file is slow to read.
        self._kept: dict[int, dict[str, torch.Tensor]] | None = None
        if compute.is_cpu and 2 * size <= self._room:
            self._kept, self._room = {}, self._room - size
        self._embedding, self._norm = source.read_embedding(), source.read_norm()
        self._head = source.read_head(self._embedding)
        self._recording = Recording(spec, self._batches, storage)
        self._dense = self._recording.record(self._embedding, self._layer)

    @torch.no_grad()
    def divergence(self, plan: Plan) -> float:
        """Mean KL(dense || refitted) over the judging tokens, nats."""
        shrunk = HiddenStates.embedded(self._source.spec, self._embedding, self._batches)
        both = RefitStreams(
            self._source,
            plan,
            self._recording.play(self._embedding),
            shrunk,
            self._fits,
            tokens=self._tokens,
            room=self._room,
            device=self._device,
        )
        for index in range(len(plan.layers)):
            both.layer(index, dict(self._layer(index)))
        total = sum(self._divergence(batch, shrunk.streams[batch]) for batch in range(len(self._batches)))
        return total / sum(float(weights.double().sum()) for weights in self._judges)

    def _layer(self, index: int) -> dict[str, torch.Tensor]:
        if self._kept is None:
            return self._source.read_layer(index)
        if index not in self._kept:
            self._kept[index] = self._source.read_layer(index)
        return self._kept[index]

    def _divergence(self, batch: int, stream: torch.Tensor) -> float:
        """The sum of KL(dense || refitted) over a batch's judging tokens, by their weights, nats."""
        weights = self._judges[batch].to(self._device)
        counted = weights > 0
        parts = (stream[counted], self._dense[batch][counted], weights[counted].double())
        total = 0.0
        for shrunk, dense, weight in zip(*(part.split(LOGIT_TOKENS) for part in parts), strict=True):
            log_q, log_p = (
                log_predictions(self._source.spec, self._norm, self._head, states) for states in (shrunk, dense)
            )
            total += float((weight * (log_p.exp() * (log_p - log_q)).sum(-1).double()).sum())
        return total
