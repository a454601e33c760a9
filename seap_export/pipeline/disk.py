"""The disk space of an export: what will be written, and a margin for what is there only while it is made."""

from __future__ import annotations

from collections.abc import Sequence

from seap_export.corpus import Sample
from seap_export.pipeline.cost.checks import Disk
from seap_export.pipeline.cost.sizes import Sizes
from seap_export.pipeline.evaluation.quality import MAX_LENGTH
from seap_export.pipeline.prepared import Prepared
from seap_export.pipeline.steps.build import ExportSteps
from seap_export.pipeline.steps.step import PathStep
from seap_export.pruning.allocation.texts import FITTED_TOKENS, JUDGED_TOKENS

#: Tokens whose logits parity compares, about.
_PARITY_TOKENS = 1000
_FLOAT = 4
#: Streams of a refit: the dense model's and the shrunk one's, each before a layer and after it.
_STREAMS = 4
#: Trained values of each weight: it and its two running means, before a training step and after it.
_TRAINED = 6


def planned_disk(prepared: Prepared, steps: ExportSteps, missing: Sequence[PathStep], dense: Sizes) -> Disk:
    """What the missing steps leave, and the margin; nothing if none is missing."""
    if not missing:
        return Disk()
    whole = steps.whole.models.values() if steps.whole is not None else ()
    passing = {step.name: step.size(dense) for model in whole for step in model.all}
    return Disk(
        sum(step.size(dense) for step in missing),
        sum(passing.values()) + _unfinished(steps, dense),
        _temporary(prepared, dense),
    )


def _unfinished(steps: ExportSteps, dense: Sizes) -> int:
    """The hidden states of refit or of trials; in distillation, a second model folder and what is trained as well."""
    spec, most = dense.spec, 0
    for name, ranking in steps.rankings.items():
        settings = ranking.settings
        tokens = max(ranking.num_tokens, len(ranking.tasks) * settings.fresh)
        state = _FLOAT * spec.width
        tried = min(tokens, FITTED_TOKENS + JUDGED_TOKENS) if settings.tried else 0
        taken = max(_STREAMS * tokens, 2 * len(spec.layers) * tried) * state
        ratios = [steps.plan.ratio for steps in steps.variants.values() if steps.plan.ranking.mixture.name == name]
        if settings.passes_over(ranking.num_tokens) and (cut := [ratio for ratio in ratios if ratio]):
            weights = sum(map(spec.prunable_weights, range(len(spec.layers))))
            trained = round((1 - min(cut)) * _TRAINED * _FLOAT * weights)
            taken += trained + dense.variant(min(cut)).folder(dense.stored)
        most = max(most, taken)
    return most


def _temporary(prepared: Prepared, dense: Sizes) -> int:
    """The logits of the held-out texts, and the dense model as a folder and in the format that is timed."""
    request, tokens = prepared.request, _PARITY_TOKENS
    if request.quality:
        held_out = sum(_at_most(split.held_out) for split in prepared.splits.values()) + _at_most(prepared.general)
        answers = (len(one.prompts.held_out) * one.settings.answer_tokens for one in prepared.unanswered.values())
        tokens = max(tokens, held_out + sum(answers))
    folder = 0 if dense.is_folder else dense.folder(dense.stored)
    timed = max(map(dense.folder, request.formats), default=0) if request.speed else 0
    return _FLOAT * dense.spec.vocab_size * tokens + folder + timed


def _at_most(samples: Sequence[Sample]) -> int:
    """Tokens that texts have at most, known without a tokenizer."""
    return sum(min(MAX_LENGTH, len(sample.text.encode("utf-8")) + 1) for sample in samples)
