"""Texts outside a variant's tasks: a few of every task and a general text, on which the lost quality is measured."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import seap_export.corpus
from seap_export.common.hashing import sha256_json
from seap_export.corpus import Chat, Sample, parse_task, text_digest
from seap_export.errors import InputError
from seap_export.pruning.activations.statistics import CalibrationRecord
from validation.divergence.measure import DivergenceFigures
from validation.divergence.paired import PairedText
from validation.estimate import kl_json

#: The name of the general text beside those of tasks, which have no space.
GENERAL_TEXT = "general text"
#: Texts of each task, and of the general text, that all variants are compared on.
MOST_TEXTS = 8
_KINDS: Mapping[str, Any] = {
    "own": bool,
    "mean_kl_nats": int | float,
    "bits_per_byte": int | float,
    "dense_bits_per_byte": int | float,
    "texts": int,
    "sha256": str,
}
_SHIPPED = Path(seap_export.corpus.__file__).with_name("general.jsonl")


@dataclass(frozen=True)
class TextSet:
    """Texts of a task, or the general text, and their tokens."""

    texts: tuple[str, ...]
    is_of_task: bool
    pairs: tuple[PairedText, ...]

    @property
    def is_long_enough(self) -> bool:
        """Whether both models predict some bytes of it."""
        sizes = [pair.bytes for pair in self.pairs if pair.bytes is not None]
        return all(sum(getattr(size, model) for size in sizes) > 0 for model in ("dense", "variant"))


@dataclass(frozen=True)
class ElsewhereFigures:
    """The divergence of a variant on one set of texts, with figures per byte."""

    text_set: TextSet
    divergence: DivergenceFigures

    def to_json(self) -> dict[str, Any]:
        """The divergence and the size of the set of texts as JSON values."""
        text_set, divergence, per_byte = self.text_set, self.divergence, self.divergence.per_byte
        if per_byte is None:
            raise ValueError("what was lost elsewhere is given per byte")
        return {
            "own": text_set.is_of_task,
            **kl_json(divergence.kl),
            **({} if divergence.cut is None else {"lost_kl_nats": divergence.cut.lost_kl_nats}),
            "bits_per_byte": per_byte.bits,
            "dense_bits_per_byte": per_byte.dense_bits,
            "texts": len(text_set.texts),
            "tokens": divergence.tokens,
            "bytes": per_byte.bytes,
            "sha256": sha256_json(list(text_set.texts)),
        }


def refuse_damaged_cell(cell: Mapping[str, Any]) -> None:
    """Refuses what `ElsewhereFigures.to_json` cannot have written."""
    for key, kind in _KINDS.items():
        if not isinstance(cell[key], kind):
            raise TypeError(f"a valid {key}")
    if not isinstance(cell.get("mean_kl_nats_stderr"), int | float | None):  # which older reports lack
        raise TypeError("a valid mean_kl_nats_stderr")


def elsewhere_texts(
    records: Iterable[CalibrationRecord], general: Path | None, chat: Chat | None = None
) -> dict[str, tuple[str, ...]]:
    """The first held-out texts of each task and the general text, without what any of the tasks was calibrated on.

    Args:
        general: The corpus of the general text; None: the one that comes with the package.
        chat: Renders conversations; None: the model has no chat template.

    Returns:
        The texts by the task's name or `GENERAL_TEXT`; a task of which no text is left is missing.
    """
    by_task = {record.task: record for record in sorted(records, key=lambda record: record.task)}
    calibrated = {digest for record in by_task.values() for digest in record.calibration_texts}
    sets = {
        task: _first([Sample(**sample) for sample in record.held_out], calibrated) for task, record in by_task.items()
    }
    sets[GENERAL_TEXT] = general_samples(general, calibrated, chat)
    return {name: tuple(sample.text for sample in samples) for name, samples in sets.items() if samples}


def general_samples(given: Path | None, calibrated: Container[str], chat: Chat | None = None) -> tuple[Sample, ...]:
    """The first texts of a general corpus.

    Args:
        given: The corpus, or a task file; None: the one that comes with the package.
        chat: Renders conversations; None: the model has no chat template.
    """
    task = parse_task(f"general={given or _SHIPPED}")
    samples = _first(task.texts(chat), calibrated)
    if not samples:
        raise InputError(f"the general text: {task.corpus} has no text that was not calibrated on; give another file")
    return samples


def _first(samples: Iterable[Sample], calibrated: Container[str]) -> tuple[Sample, ...]:
    """The first distinct samples that were not calibrated on, at most as many as are compared."""
    texts: dict[str, Sample] = {}
    for sample in samples:
        if text_digest(sample.text) not in calibrated:
            texts.setdefault(sample.text, sample)
        if len(texts) == MOST_TEXTS:
            break
    return tuple(texts.values())
