"""The figures of quality and speed: what each is called, and how it is read from a report.

A further figure is a row of `QUALITY` or `SPEED`, and a key in the report that it is read from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from validation.reports.document import Cell, Column
from validation.reports.numbers import (
    NOTHING,
    figure,
    milliseconds,
    percent,
    percent_with_error,
    signed_with_error,
    times,
    with_error,
)
from validation.reports.reading import Json
from validation.reports.speedups import NO_INTERVAL, NO_SPEEDUP, Kind, MeasuredSpeedup, speedups
from validation.reports.yardstick import kl_in_words

Figure = Column[Json]


def divergence_of(quality: Json | None) -> Json | None:
    """The divergence that stands for a variant: of `onnx` if it was measured, else the first; None: there is none.

    Args:
        quality: A report of quality, or a divergence itself, as the manifest repeats it.
    """
    if quality is None or "divergence" not in quality:
        return quality
    divergences = quality["divergence"] or {}
    chosen: Json | None = divergences.get("onnx") or next(iter(divergences.values()), None)
    return chosen


def divergence_of_folder(quality: Json | None, folder: str) -> Json | None:
    """The divergence of one folder of a variant, in the first runtime that ran it; None: it was not measured."""
    divergences: Json = (quality or {}).get("divergence") or {}
    return next((of for form, of in divergences.items() if form.split(" in ")[0] == folder), None)


def figures_of_folder(variant: Json, folder: str) -> Json:
    """The speed and the divergence (`quality`) of one folder of a variant, each None if it was not measured."""
    is_timed = (variant["speed"] or {}).get("folder", "onnx") == folder
    return {
        "speed": variant["speed"] if is_timed else None,
        "quality": divergence_of_folder(variant["quality"], folder),
    }


def accuracies(quality: Json | None, folder: str) -> dict[str, Json]:
    """How often one folder of a variant was right, and the dense model, by task; empty: no questions were asked.

    Returns:
        For each task the `share` of right answers, that of the dense model (`dense`), and the number of `questions`.
    """
    found: dict[str, Json] = {}
    for kind, key in (("zero_shot", "acc"), ("generation", "exact_match")):
        by_form: Json = (quality or {}).get(kind) or {}
        own: Json = next((of for form, of in by_form.items() if form.split(" in ")[0] == folder), {})
        for task, figures in own.items():
            dense = (by_form.get("dense") or {}).get(task, {}).get(key)
            found[task] = {"share": figures[key], "dense": dense, "questions": figures["questions"]}
    return found


def _speed(kind: Kind) -> Callable[[Json], Cell]:
    """The speed-up in the first case that was timed, its interval, the times, and the ideal speed-up."""

    def cell(variant: Json) -> Cell:
        measured = speedups(variant["speed"], kind)
        if not measured:
            return Cell(NOTHING)
        return Cell(measured[0].words, measured[0].interval, tuple(_speed_details(kind, *measured)))

    return cell


def _speed_details(kind: Kind, first: MeasuredSpeedup, *others: MeasuredSpeedup) -> Iterator[str]:
    if first.words == NO_SPEEDUP:
        yield f"{times(first.value)}×, but the interval {first.interval} contains 1"
    else:
        yield first.interval if first.interval == NO_INTERVAL else f"interval {first.interval}"
    each = "a token" if kind == "decode" else f"for {first.depth} tokens"
    yield f"{milliseconds(first.ms)} instead of {milliseconds(first.dense_ms)} {each}"
    if first.ideal is not None and first.share is not None:
        yield f"{percent(first.share)} of the ideal {times(first.ideal)}×"
    if others:
        yield f"first of {len(others) + 1} cases: batch {first.batch}, {first.depth} tokens"


def _quality(read: Callable[[Json], Cell]) -> Callable[[Json], Cell]:
    """A figure that is read from the divergence which stands for a variant."""

    def cell(variant: Json) -> Cell:
        divergence = divergence_of(variant["quality"])
        return Cell(NOTHING) if divergence is None else read(divergence)

    return cell


def _kl(divergence: Json) -> Cell:
    kl = divergence["mean_kl_nats"]
    return Cell(with_error(kl, divergence.get("mean_kl_nats_stderr")), details=kl_in_words(divergence))


def _perplexity(divergence: Json) -> Cell:
    dense = f"dense {figure(divergence['dense_perplexity'])}"
    more, error = divergence.get("loss_difference_nats"), divergence.get("loss_difference_nats_stderr")
    paired = () if more is None else (f"{signed_with_error(more, error)} nats per token, on the same texts",)
    return Cell(figure(divergence["perplexity"]), dense, (dense, *paired))


def _kl_over_tokens(title: str, words: str, key: str) -> Figure:
    """A figure of the distribution of KL over tokens; a dash in reports of versions that did not measure it."""
    return Figure(title, _quality(lambda of: Cell(figure(of.get(key)))), words, is_main=False)


def _top1(divergence: Json) -> Cell:
    return Cell(percent_with_error(divergence["top1_agreement"], divergence.get("top1_agreement_stderr")))


TOP1 = Figure("top-1", _quality(_top1), "the same next token")
#: The figures of speed, and those of a divergence from the dense model.
SPEED = (
    Figure("decode", _speed("decode"), "writing tokens (decode)"),
    Figure("prefill", _speed("prefill"), "reading the prompt (prefill)"),
)
QUALITY = (
    Figure("KL", _quality(_kl), "nats of KL per token"),
    TOP1,
    Figure("perplexity", _quality(_perplexity), "perplexity"),
    _kl_over_tokens("median KL", "nats of KL for half of the tokens at most", "median_kl_nats"),
    _kl_over_tokens("99 % KL", "nats of KL for 99 % of the tokens at most", "p99_kl_nats"),
    _kl_over_tokens("99.9 % KL", "nats of KL for 99.9 % of the tokens at most", "p999_kl_nats"),
    _kl_over_tokens("max KL", "nats of KL at most", "max_kl_nats"),
    Figure("tokens", _quality(lambda of: Cell(f"{of['tokens']:,}")), "tokens compared", is_main=False),
)
#: Those that tables with one row for each variant have.
MAIN = (*(row for row in QUALITY if row.is_main), *SPEED)
