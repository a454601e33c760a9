"""The whole models of an output folder as a report shows them, and the variants that one of them beats."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from typing import Any

from seap_export.errors import ArtifactError
from seap_export.pipeline.evaluation.quality import quality_figures
from seap_export.pipeline.evaluation.speed import are_sound
from seap_export.pipeline.folder.contents import Export
from seap_export.pipeline.folder.whole import read_whole

Row = Mapping[str, Any]
#: Size, KL and the inverse of a speed-up: less is better; None: not measured.
_Measures = tuple[float | None, float | None, float | None]
#: What a report repeats of whole.json.
_SHOWN = ("task", "precision", "beside", "options", "command", "refusal", "bytes")


def whole_rows(export: Export, tasks: Collection[str]) -> dict[str, dict[str, Any]]:
    """The whole models beside the variants of some tasks and mixtures, by name, with what is known of each.

    Those that belong to other statistics than the folder now has are left out.
    """
    rows, steps = {}, export.manifest.steps
    for name, known in read_whole(export.path).items():
        is_current = all(steps.get(step) == key for step, key in known["statistics"].items())
        if known["task"] in tasks and is_current:
            timed = export.performance.speed.get(name, {})
            speed = timed.get("figures") if timed.get("whole") == known["key"] else None
            rows[name] = {
                **{key: known[key] for key in _SHOWN},
                "folder": name if steps.get(name) == known["key"] else None,
                "memory_about": known.get("memory_about"),
                "quality": _sound_quality(known["quality"]),
                "speed": speed if are_sound(speed) else None,
            }
    return rows


def _sound_quality(quality: Any) -> Any:
    with suppress(ArtifactError):
        if quality is not None:
            quality_figures(quality)
            return quality
    return None


def beaten_by(name: str, variants: Mapping[str, Row], rows: Mapping[str, Row]) -> str | None:
    """The whole model that measures smaller and faster than a variant and nearer to the dense model.

    A tie does not beat. Speeds are compared by the speed-ups over the dense model, which was timed in every session.
    Of several such models it is the nearest one. None: there is none, or the variant has learnt right
    answers, which took it away from the dense model.
    """
    variant = variants[name]
    if (folder := _measured_folder(variant)) is None or variant.get("learning"):
        return None
    own = _measures(variant, variant["bytes"].get(folder))
    precision = variant["formats"].get(folder, {}).get("precision")
    found = {
        other: measures
        for other, task, measures in _whole_models(variants, rows, folder, precision)
        if other != name and task == variant["task"] and _beats(measures, own)
    }
    return min(found, key=lambda other: (found[other][1] or 0.0, found[other][0] or 0.0, other), default=None)


def _whole_models(
    variants: Mapping[str, Row], rows: Mapping[str, Row], folder: str, precision: str | None
) -> Iterator[tuple[str, str, _Measures]]:
    """The name, the task and the measures of each whole model that is measured as a folder of this precision is."""
    for name, row in rows.items():
        if not row["refusal"] and row["beside"] == precision and _measured_folder(row) in (None, folder):
            yield name, row["task"], _measures(row, row["bytes"])
    for name, variant in variants.items():
        same = variant["formats"].get(folder, {}).get("precision") == precision
        if is_untouched(variant) and same and _measured_folder(variant) == folder:
            yield name, variant["task"], _measures(variant, variant["bytes"].get(folder))


def is_untouched(variant: Row) -> bool:
    """Whether a variant is the whole model, merely rounded: nothing was removed, and nothing learnt."""
    number = variant["num_parameters"]
    return number is not None and number == variant["dense_parameters"] and not variant.get("learning")


def _measured_folder(row: Row) -> str | None:
    """The folder that was measured; None: nothing was."""
    figures = row["quality"] or row["speed"] or {}
    return figures.get("folder")


def _measures(row: Row, size: float | None) -> _Measures:
    quality, speed = row["quality"], row["speed"]
    divergences = [] if quality is None else list(quality.get("divergence", {}).values())
    speedup = None if speed is None else speed["variant"][0]["decode_speedup"]
    return size, divergences[0]["mean_kl_nats"] if divergences else None, 1 / speedup if speedup else None


def _beats(one: _Measures, other: _Measures) -> bool:
    """Whether it is better in size and all else that was measured of both, and something else was."""
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    return len(pairs) > 1 and one[0] is not None and all(a < b for a, b in pairs)
