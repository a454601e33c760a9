"""Which file to ship for each task: one rule, from what was measured of the variants and of the whole model, rounded.

Size and quality decide, which are the same on every machine; speeds are told, and held against a target alone. Of the
files within the limits:

- with a limit of quality, the smallest;
- without one, the smallest that is not clearly further from the original than the whole model in 4 bits, by two
  standard errors of the difference, paired by text;
- if there is none, or the whole model was not measured, the nearest to the original.

A file that another one beats, as small and as near, is never recommended.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from seap_export.common.providers import OWN_FORMAT
from seap_export.errors import InputError
from validation.estimate import TokenEstimate, is_clearly_above
from validation.reports.figures import accuracies, divergence_of, divergence_of_folder
from validation.reports.recommended import in_words
from validation.reports.speedups import speedups

Row = Mapping[str, Any]
#: The precision of the whole model that other files are held against: what most people ship.
_YARDSTICK = "int4"


@dataclass(frozen=True)
class Limits:
    """What a file must meet to be recommended; None: no such limit.

    Attributes:
        bytes: The largest size of its folder.
        max_kl: The largest mean KL divergence from the dense model, nats per token.
        min_accuracy_retained: The smallest share of the dense model's accuracy, on every task that says what is right.
        decode_speedup: The smallest speed-up of a decode step over the dense model in the usual precision.
    """

    bytes: int | None = None
    max_kl: float | None = None
    min_accuracy_retained: float | None = None
    decode_speedup: float | None = None

    @classmethod
    def of_targets(
        cls, targets: Mapping[str, Any] | None, max_kl: float | None = None, min_accuracy_retained: float | None = None
    ) -> Limits:
        """The limits of an export with targets, or of a validation, whose own limits come first."""
        targets = targets or {}
        of_kl = targets.get("max_kl") if max_kl is None else max_kl
        return cls(targets.get("size"), of_kl, min_accuracy_retained, targets.get("decode_speedup"))

    @property
    def of_quality(self) -> bool:
        """Whether one of them is of quality."""
        return self.max_kl is not None or self.min_accuracy_retained is not None

    def allow(self, file: Row, least_rate: float | None = None) -> bool:
        """Whether a file is within them; one whose accuracy or speed is not known is not within a limit of it.

        Args:
            file: The file.
            least_rate: The fewest tokens a second that meet the limit of speed; None: no file was timed.
        """
        return self._allow_quality(file) and self._allow_speed(file, least_rate)

    def _allow_speed(self, file: Row, least_rate: float | None) -> bool:
        rate = file["tokens_per_second"]
        return self.decode_speedup is None or (None not in (rate, least_rate) and rate >= least_rate)

    def _allow_quality(self, file: Row) -> bool:
        size, kl, least = file["bytes"], file["mean_kl_nats"], self.min_accuracy_retained
        of_tasks = file["accuracy"].values()
        is_right = bool(of_tasks) and all(
            of["dense"] and of["share"] >= (least or 0.0) * of["dense"] for of in of_tasks
        )
        is_small, is_near = self.bytes is None or size <= self.bytes, self.max_kl is None or kl <= self.max_kl
        return is_small and is_near and (least is None or is_right)


def recommended(
    variants: Mapping[str, Row],
    whole: Mapping[str, Row],
    limits: Limits,
    failed: Iterable[tuple[str, str]] = (),
    frontier: Row | None = None,
) -> dict[str, dict[str, Any]]:
    """What to ship for each task and mixture of which a file was measured, as reports have it, with the sentences.

    Args:
        variants: The variants as a report describes them, by name.
        whole: The whole models that were measured beside them; see `whole_rows`.
        limits: The limits.
        failed: The variants and their folders that a check failed for, which nobody should ship.
        frontier: The candidates of a search for targets, of which the chosen ones were timed beside the dense model in
            the usual precision; None: there was none.
    """
    damaged = set(failed)
    found: dict[str, list[tuple[dict[str, Any], Row | None]]] = {}
    for task, file, divergence in (*_of_variants(variants, damaged), *_of_whole(whole)):
        found.setdefault(task, []).append((file, divergence))
    timed = _timed(frontier)
    return {task: _of_task(files, limits, timed) for task, files in found.items() if any(of for _, of in files)}


def _timed(frontier: Row | None) -> dict[str, float]:
    """The speed-up over the dense model in the usual precision of each variant that a search has chosen."""
    points = [point for of in (frontier or {"tasks": {}})["tasks"].values() for point in of["points"]]
    return {of["variant"]: of["decode_speedup"] for of in points if of["chosen"] and of["decode_speedup"]}


def _least_rate(files: Iterable[Row], speedup: float | None, timed: Mapping[str, float]) -> float | None:
    """The fewest tokens a second that are `speedup` times the dense model's in the usual precision.

    The dense model was not timed in that precision beside these files, but a variant that a search has chosen was, so
    its own rate stands for its speed-up. It met the target there, so its own rate is always enough.
    """
    rates = {file["name"].rpartition("/")[0]: file["tokens_per_second"] for file in files if file["tokens_per_second"]}
    chosen = rates.keys() & timed
    return min((rates[name] * min(1.0, (speedup or 0.0) / timed[name]) for name in chosen), default=None)


def _of_task(
    found: list[tuple[dict[str, Any], Row | None]], limits: Limits, timed: Mapping[str, float]
) -> dict[str, Any]:
    divergences = {file["name"]: divergence for file, divergence in found if divergence is not None}
    files = sorted((file for file, _ in found if file["name"] in divergences), key=_by_size)
    least_rate = _least_rate(files, limits.decode_speedup, timed)
    for file in files:
        file["beaten"] = any(_beats(other, file) for other in files)
        file["within_limits"] = limits.allow(file, least_rate)
    best = [file for file in files if not file["beaten"]]
    within = [file for file in files if file["within_limits"]]
    fitting = [file for file in within if not any(_beats(other, file) for other in within)]
    whole = [file for file in files if file["is_whole"] and file["precision"] == _YARDSTICK]
    yardstick = min(whole, key=lambda file: (file["folder"] != OWN_FORMAT, file["name"]), default=None)
    rule, chosen = "limits", fitting[0] if fitting else None
    if not limits.of_quality and chosen is not None:
        as_near = [file for file in fitting if yardstick and _as_near(file["name"], yardstick["name"], divergences)]
        rule, chosen = ("as near as int4", as_near[0]) if as_near else ("nearest", fitting[-1])
    values = {
        "file": None if chosen is None else chosen["name"],
        "rule": rule,
        "beside": None if yardstick is None else yardstick["name"],
        "nearest": best[-1]["name"],
        "smallest": best[0]["name"],
        "limits": vars(limits),
        "files": files,
        "not_measured": [file["name"] for file, divergence in found if divergence is None],
    }
    return {"words": in_words(values), **values}


def _by_size(file: Row) -> tuple[int, float, str]:
    return file["bytes"], file["mean_kl_nats"], file["name"]


def _beats(one: Row, other: Row) -> bool:
    """Whether a file is as small and as near as another one, and smaller or nearer."""
    (size, kl), (other_size, other_kl) = ((file["bytes"], file["mean_kl_nats"]) for file in (one, other))
    return (size, kl) != (other_size, other_kl) and size <= other_size and kl <= other_kl


def _as_near(name: str, other: str, divergences: Mapping[str, Row]) -> bool:
    """Whether a file is not clearly further from the dense model than another one."""
    one, two = divergences[name], divergences[other]
    more, errors = one["mean_kl_nats"] - two["mean_kl_nats"], [of.get("mean_kl_nats_stderr") for of in (one, two)]
    error: float | None = None if None in errors else math.hypot(*filter(None, errors))
    with suppress(KeyError, TypeError, ValueError, InputError):  # figures of other tokens, or without texts
        if (paired := TokenEstimate.read(one).minus(TokenEstimate.read(two))) is not None:
            more, error = paired.mean, paired.stderr
    return not is_clearly_above(more, error, 0.0)


def _of_variants(
    variants: Mapping[str, Row], damaged: set[tuple[str, str]]
) -> Iterator[tuple[str, dict[str, Any], Row | None]]:
    """The task, the file and the divergence of each folder beside `hf`; None: it was not measured."""
    for name, variant in variants.items():
        is_whole = variant["num_parameters"] is not None and variant["num_parameters"] == variant["dense_parameters"]
        for folder, format in variant["formats"].items():
            if (name, folder) not in damaged and variant["task"] is not None:
                divergence = divergence_of_folder(variant["quality"], folder)
                speed = variant["speed"] if (variant["speed"] or {}).get("folder", OWN_FORMAT) == folder else None
                size = variant["bytes"][folder]
                file = _file(f"{name}/{folder}", folder, format["precision"], is_whole, size, divergence, speed)
                file["accuracy"] = accuracies(variant["quality"], folder)
                yield variant["task"], file, divergence


def _of_whole(whole: Mapping[str, Row]) -> Iterator[tuple[str, dict[str, Any], Row | None]]:
    for name, row in whole.items():
        if not row["refusal"]:
            divergence = divergence_of(row["quality"])
            file = _file(name, None, row["precision"], True, row["bytes"], divergence, row["speed"])
            file["accuracy"] = accuracies(row["quality"], (row["quality"] or {}).get("folder", ""))
            yield row["task"], file, divergence


def _file(
    name: str, folder: str | None, precision: str, is_whole: bool, size: int, divergence: Row | None, speed: Row | None
) -> dict[str, Any]:
    decode, prefill = (next(iter(speedups(speed, kind)), None) for kind in ("decode", "prefill"))
    return {
        "name": name,
        "folder": folder,
        "precision": precision,
        "is_whole": is_whole,
        "bytes": size,
        "mean_kl_nats": None if divergence is None else divergence["mean_kl_nats"],
        "mean_kl_nats_stderr": None if divergence is None else divergence.get("mean_kl_nats_stderr"),
        "tokens_per_second": None if decode is None else 1e3 * decode.batch / decode.ms,
        "first_token_ms": None if prefill is None else prefill.ms,
        "decode_speedup": None if decode is None else decode.value,
    }
