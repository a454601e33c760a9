"""Recommends a file for each task, by one rule from measurements of the variants and of the rounded whole model.

Size and quality decide, which are the same on every machine; speeds are told, and held against a target alone. Of the
files within the limits:

- with a limit of quality, the smallest;
- without one, the smallest that is not clearly further from the original than the whole model in 4 bits, by two
  standard errors of the difference, paired by text;
- if there is none, or the whole model was not measured, the nearest to the original.

Where a variant has learnt right answers, these take the place of nearness: without a limit of quality, it is the
smallest file whose share of them is within the 95 % interval of the best file's.

A file that another one beats, as small and as good, is never recommended.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from seap_export.common.providers import OWN_FORMAT
from seap_export.errors import InputError
from seap_export.pipeline.gate.whole import is_untouched
from seap_export.pipeline.targets.first_token import FirstToken, PromptTime
from seap_export.pipeline.targets.targets import Targets
from validation.estimate import TokenEstimate, is_clearly_above, is_close, wilson
from validation.reports.figures import accuracies, divergence_of, figures_of_folder
from validation.reports.recommended import in_words
from validation.reports.speedups import speedups

Row = Mapping[str, Any]
#: The precision of the whole model that other files are held against: what most people ship.
_YARDSTICK = "int4"


@dataclass(frozen=True)
class Limits:
    """The limits that a recommended file must meet; None: no such limit.

    Attributes:
        max_kl: The largest mean KL divergence from the dense model, nats per token.
        min_accuracy_retained: The smallest share of the dense model's accuracy, on every task that says what is right.
    """

    bytes: int | None = None
    max_kl: float | None = None
    min_accuracy_retained: float | None = None
    decode_speedup: float | None = None
    first_token: FirstToken | None = None

    @classmethod
    def of_targets(
        cls, targets: Mapping[str, Any] | None, max_kl: float | None = None, min_accuracy_retained: float | None = None
    ) -> Limits:
        """The limits of an export with targets, or of a validation, whose own limits come first."""
        given = None if targets is None else Targets.read(targets)
        if given is None:
            return cls(None, max_kl, min_accuracy_retained)
        of_kl = given.max_kl if max_kl is None else max_kl
        return cls(given.size, of_kl, min_accuracy_retained, given.decode_speedup, given.first_token)

    @property
    def of_quality(self) -> bool:
        """Whether one of them is of quality."""
        return self.max_kl is not None or self.min_accuracy_retained is not None

    def allow(self, file: Row, slowest: Slowest) -> bool:
        """Whether a file is within them; one whose accuracy or speed is not known is not within a limit of it."""
        return self._allow_quality(file) and self._allow_speed(file, slowest)

    def _allow_speed(self, file: Row, slowest: Slowest) -> bool:
        rate, least = file["tokens_per_second"], slowest.rate
        is_fast = self.decode_speedup is None or (None not in (rate, least) and rate >= least)
        if self.first_token is None:
            return is_fast
        ms, most = _first_token_ms(file, self.first_token), slowest.first_token_ms
        return is_fast and ms is not None and most is not None and ms <= most

    def _allow_quality(self, file: Row) -> bool:
        size, kl, least = file["bytes"], file["mean_kl_nats"], self.min_accuracy_retained
        of_tasks = file["accuracy"].values()
        is_right = bool(of_tasks) and all(
            of["dense"] and of["share"] >= (least or 0.0) * of["dense"] for of in of_tasks
        )
        is_small, is_near = self.bytes is None or size <= self.bytes, self.max_kl is None or kl <= self.max_kl
        return is_small and is_near and (least is None or is_right)


@dataclass(frozen=True)
class Slowest:
    """The slowest that a file of this session may be within limits of speed; None: no file of a search was timed."""

    rate: float | None = None
    first_token_ms: float | None = None


def recommended(
    variants: Mapping[str, Row],
    whole: Mapping[str, Row],
    limits: Limits,
    failed: Iterable[tuple[str, str]] = (),
    frontier: Row | None = None,
) -> dict[str, dict[str, Any]]:
    """The recommendation for each task and mixture of which a file was measured, in the form of reports.

    Args:
        whole: The whole models that were measured beside them; see `whole_rows`.
        frontier: The candidates of a search for targets, of which the chosen ones were timed beside the dense model in
            the usual precision; None: there was none.
    """
    damaged = set(failed)
    found: dict[str, list[tuple[dict[str, Any], Row | None]]] = {}
    for task, file, divergence in (*_of_variants(variants, damaged), *_of_whole(whole)):
        found.setdefault(task, []).append((file, divergence))
    points = [point for of in (frontier or {"tasks": {}})["tasks"].values() for point in of["points"]]
    timed = {of["variant"]: of for of in points if of["chosen"] and of["decode_speedup"]}
    learnt = {variant["task"] for variant in variants.values() if variant.get("learning")}
    simple = {row["task"]: (row["quality"] or {}).get("baselines", {}) for row in variants.values()}
    return {
        task: _of_task(files, limits, timed, _wrong if task in learnt else _kl, simple.get(task, {}))
        for task, files in found.items()
        if any(of for _, of in files)
    }


def _slowest(files: Iterable[Row], limits: Limits, timed: Mapping[str, Row]) -> Slowest:
    """The slowest times of this session that still meet a target for speed.

    The dense model was not timed in the usual precision beside these files, but a variant that a search has chosen
    was, so its own times stand for what it reached there: others may be as much slower as it was better than asked. It
    met the target there, so its own times are always enough.
    """
    rates, times = list[float](), list[float]()
    for file in files:
        point = timed.get(file["name"].rpartition("/")[0])
        if point is None:
            continue
        if limits.decode_speedup is not None and file["tokens_per_second"]:
            rates.append(file["tokens_per_second"] * min(1.0, limits.decode_speedup / point["decode_speedup"]))
        if limits.first_token is not None and (ms := _first_token_ms(file, limits.first_token)) is not None:
            reached = PromptTime(point["first_token_ms"], point["first_token_speedup"])
            times.append(ms * max(1.0, limits.first_token.margin(reached)))
    return Slowest(min(rates, default=None), max(times, default=None))


def _first_token_ms(file: Row, target: FirstToken) -> float | None:
    """The time to the first token of the prompt that a target is about; None: it was not measured."""
    ms: float | None = file["first_token_ms_by_tokens"].get(str(target.tokens))
    return ms


def _kl(file: Row) -> float:
    kl: float = file["mean_kl_nats"]
    return kl


def _wrong(file: Row) -> float:
    """The share of wrong answers, over all tasks; 1 if it was asked nothing."""
    return 1.0 - fmean([of["share"] for of in file["accuracy"].values()] or [0.0])


def _as_right(file: Row, best: Row) -> bool:
    """Whether a file's share of right answers is within the interval of the best one's, in every task."""
    low = {task: wilson(of["share"], of["questions"])[0] for task, of in best["accuracy"].items()}
    return all(task in file["accuracy"] and file["accuracy"][task]["share"] >= least for task, least in low.items())


def _of_task(
    found: list[tuple[dict[str, Any], Row | None]],
    limits: Limits,
    timed: Mapping[str, Row],
    loss: Callable[[Row], float],
    simple: Row,
) -> dict[str, Any]:
    """The recommendation; of two files of a size, the one with the smaller loss is better."""
    divergences = {file["name"]: divergence for file, divergence in found if divergence is not None}
    files = sorted(
        (file for file, _ in found if file["name"] in divergences),
        key=lambda file: (file["bytes"], loss(file), file["name"]),
    )
    slowest = _slowest(files, limits, timed)
    for file in files:
        file["beaten"] = any(_beats(other, file, loss) for other in files)
        file["within_limits"] = limits.allow(file, slowest)
    best = [file for file in files if not file["beaten"]]
    within = [file for file in files if file["within_limits"]]
    fitting = [file for file in within if not any(_beats(other, file, loss) for other in within)]
    whole = [file for file in files if file["is_whole"] and file["precision"] == _YARDSTICK]
    yardstick = min(whole, key=lambda file: (file["folder"] != OWN_FORMAT, file["name"]), default=None)
    rule, chosen = "limits", fitting[0] if fitting else None
    if not limits.of_quality and chosen is not None and loss is _wrong:
        rule, chosen = "as right as the best", next(file for file in fitting if _as_right(file, fitting[-1]))
    elif not limits.of_quality and chosen is not None:
        as_near = [file for file in fitting if yardstick and _as_near(file["name"], yardstick["name"], divergences)]
        rule, chosen = ("as near as int4", as_near[0]) if as_near else ("nearest", fitting[-1])
    values = {
        "file": None if chosen is None else chosen["name"],
        "rule": rule,
        "judged_by": "right answers" if loss is _wrong else "KL",
        "beside": None if yardstick is None else yardstick["name"],
        "nearest": best[-1]["name"],
        "smallest": best[0]["name"],
        "limits": {**vars(limits), "first_token": limits.first_token and limits.first_token.to_json()},
        "files": files,
        "not_measured": [file["name"] for file, divergence in found if divergence is None],
        "baselines": simple,
    }
    close = {
        name
        for name in divergences
        if chosen is not None and is_close(*_more_kl(name, chosen["name"], divergences), 0.0)
    }
    return {"words": in_words(values, close), **values}


def _beats(one: Row, other: Row, loss: Callable[[Row], float]) -> bool:
    """Whether a file is as small and as good as another one, and smaller or better."""
    size, other_size = one["bytes"], other["bytes"]
    return (size, loss(one)) != (other_size, loss(other)) and size <= other_size and loss(one) <= loss(other)


def _as_near(name: str, other: str, divergences: Mapping[str, Row]) -> bool:
    """Whether a file is not clearly further from the dense model than another one."""
    return not is_clearly_above(*_more_kl(name, other, divergences), 0.0)


def _more_kl(name: str, other: str, divergences: Mapping[str, Row]) -> tuple[float, float | None]:
    """How much larger the KL of a file is than that of another one, and the standard error of that, paired if it can.

    None: there is no error.
    """
    one, two = divergences[name], divergences[other]
    more, errors = one["mean_kl_nats"] - two["mean_kl_nats"], [of.get("mean_kl_nats_stderr") for of in (one, two)]
    error: float | None = None if None in errors else math.hypot(*filter(None, errors))
    with suppress(KeyError, TypeError, ValueError, InputError):  # figures of other tokens, or without texts
        if (paired := TokenEstimate.read(one).minus(TokenEstimate.read(two))) is not None:
            more, error = paired.mean, paired.stderr
    return more, error


def _of_variants(
    variants: Mapping[str, Row], damaged: set[tuple[str, str]]
) -> Iterator[tuple[str, dict[str, Any], Row | None]]:
    """The task, the file and the divergence of each folder beside `hf`; None: it was not measured."""
    for name, variant in variants.items():
        is_whole = is_untouched(variant)
        for folder, format in variant["formats"].items():
            if (name, folder) not in damaged and variant["task"] is not None:
                figures, size = figures_of_folder(variant, folder), variant["bytes"][folder]
                divergence, speed = figures["quality"], figures["speed"]
                file = _file(f"{name}/{folder}", folder, format["precision"], is_whole, size, divergence, speed)
                file["accuracy"] = accuracies(variant["quality"], folder)
                file["memory_about"] = (variant.get("memory_about") or {}).get(folder)
                yield variant["task"], file, divergence


def _of_whole(whole: Mapping[str, Row]) -> Iterator[tuple[str, dict[str, Any], Row | None]]:
    for name, row in whole.items():
        if not row["refusal"]:
            divergence = divergence_of(row["quality"])
            file = _file(name, None, row["precision"], True, row["bytes"], divergence, row["speed"])
            file["accuracy"] = accuracies(row["quality"], (row["quality"] or {}).get("folder", ""))
            file["memory_about"] = row.get("memory_about")
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
        "first_token_ms_by_tokens": {str(of.depth): of.ms for of in speedups(speed, "prefill") if of.batch == 1},
        "decode_speedup": None if decode is None else decode.value,
    }
