"""Everything that was measured for a variant, and why other checks were skipped; failed parity comes first."""

from __future__ import annotations

from collections.abc import Iterator

from validation.reports.document import Block, Cell, Section, Table, Words
from validation.reports.figures import MAIN, QUALITY
from validation.reports.numbers import (
    NOTHING,
    accuracy,
    count,
    figure,
    milliseconds,
    percent,
    percent_with_error,
    ratio,
    times,
)
from validation.reports.reading import (
    Json,
    case_failures,
    diverges_first,
    nearest_limits,
    texts_in_words,
    verdict_of,
)
from validation.reports.speedups import JUDGED, SIZE, case_in_words, interval_in_words, speedups

_OF_PARITY = (
    "Case", "Stage", "Result", "Tokens", "Max abs", "Mean KL", "p99.9 KL", "Max KL", "Top-1", "Top-1, clear margin",
    "Perplexity ratio", "KV cache error", "KV cache, max abs",
)  # fmt: skip
_OVERFLOWS = {"nan": "NaN", "inf": "Inf", "near": "near the largest number of its type"}


def variant_section(report: Json, name: str, anchor: str) -> Section:
    """The section of a variant."""
    variant = report["variants"][name]
    blocks: list[Block] = [_introduction(variant), *_parities(variant, passed=False), *_bisection(variant["bisect"])]
    compared = [(row, row.cell(variant)) for row in MAIN]
    rows: list[list[str | Cell]] = [
        [f"{row.words[0].upper()}{row.words[1:]}", cell.main, Cell("\n".join(cell.details) or cell.brief)]
        for row, cell in compared
        if cell.main != NOTHING
    ]
    blocks.append(Table("Compared with the dense model", ("Figure", "Measured", "In words"), rows))
    blocks += _quality(variant["quality"] or {}) if variant["quality"] else ()
    blocks += _speed(variant["speed"]) if variant["speed"] else ()
    if variant["layers"]:
        blocks.append(Section("Layers after pruning", [_layers(variant["layers"])], is_folded=True))
    blocks += _parities(variant, passed=True)
    for check in report["checks"]:
        if (check["variant"], check["verdict"]) == (name, "skipped"):
            words = f"{check['check'].capitalize()} was skipped: {'; '.join(check['notes'])}."
            blocks.append(Words(words, kind="quiet"))
    return Section(name, blocks, anchor, verdict_of(report, name))


def _introduction(variant: Json) -> Words:
    """How the variant was made and written."""
    removed, left, dense = (variant[key] for key in ("achieved_ratio", "num_parameters", "dense_parameters"))
    asked = variant["requested_ratio"]
    wanted = "" if asked is None or percent(asked) == percent(removed) else f" ({percent(asked)} asked)"
    formats = (f"{of['title']} in {of['precision']}{_dialect(of['form'])}" for of in variant["formats"].values())
    parts = [
        "" if removed is None else f"{percent(removed)} of weights removed{wanted}",
        "" if left is None else f"{count(left)}{'' if dense is None else f' of {count(dense)}'} parameters",
        f"recipe {variant['method']}" if variant["method"] else "",
        *formats,
    ]
    return Words(", ".join(filter(None, parts)), kind="quiet")


def _dialect(form: Json) -> str:
    return f", {form['dialect']} dialect" if form.get("dialect") else ""


def _parities(variant: Json, *, passed: bool) -> Iterator[Section]:
    for folder, parity in variant["parity"].items():
        if (parity["verdict"] == "passed") == passed:
            title = f"Parity of {folder}: {len(parity['cases'])} comparisons"
            yield Section(title, _parity(folder, parity), verdict=parity["verdict"], is_folded=passed)


def _parity(folder: str, parity: Json) -> list[Block]:
    words = f"{folder}, run by {parity['runtime']}, compared with the model in hf/. KL in nats per token."
    texts = parity.get("texts")
    told = f"{words} Nearest to its limit: {nearest_limits(parity)}. {texts_in_words(texts) if texts else ''}"
    rows = [
        [
            *(case["case"], case["stage"], Cell(case["verdict"], "\n".join(case_failures(case))), str(case["tokens"])),
            *(figure(case[key]) for key in ("max_abs", "mean_kl_nats", "p999_kl_nats", "max_kl_nats")),
            *(percent(case[key]) for key in ("top1_agreement", "top1_agreement_margin")),
            *(ratio(case["perplexity_ratio"]), figure(case["cache_error"]), figure(case["cache_max_abs"])),
        ]
        for case in parity["cases"]
    ]
    if texts:
        rows.append(["texts", "", Cell(texts["verdict"], "\n".join(texts["reasons"])), *[""] * (len(_OF_PARITY) - 3)])
    return [Words(told, kind="quiet"), Table("Parity by case and stage", _OF_PARITY, rows)]


def _bisection(bisect: Json | None) -> Iterator[Section]:
    if not bisect:
        return
    first, where = bisect["first"], f"in {bisect['stage']} of case '{bisect['case']}'"
    words = f"No tensor diverges by itself {where}."
    if first:
        words = f"First to diverge {where}: {diverges_first(first)}, tensor {first['name']}."
    overflows = [
        (item["name"], _OVERFLOWS.get(item["kind"], item["kind"]), figure(item["reference_max_abs"]))
        for item in bisect["overflows"]
    ]
    taps = [
        (tap["name"], "" if tap["layer"] is None else str(tap["layer"]), tap["sublayer"], _error(tap["error"]))
        for tap in bisect["taps"]
    ]
    errors = Table("In the order of computation", ("Tensor", "Layer", "Sublayer", "Relative error"), taps)
    overflowing = Table("Tensors that overflow", ("Tensor", "In the ONNX file", "Largest in the model"), overflows)
    yield Section(
        "Error by layer",
        [Words(words), overflowing, Section("Relative error of each tensor", [errors], is_folded=True)],
    )


def _error(error: float | None) -> str:
    return "not finite" if error is None else figure(error)


def _quality(quality: Json) -> Iterator[Block]:
    yield from quality_tables(quality)
    if (limit := (quality.get("limits") or {}).get("max_kl_nats")) is not None:
        yield Words(f"Limit of the mean KL: {figure(limit)}.", kind="quiet")


def quality_tables(quality: Json) -> list[Table]:
    """The divergence of each form, and its accuracy in each task; tables of what was not measured have no rows."""
    divergence = {form: {"quality": of} for form, of in (quality["divergence"] or {}).items()}
    beside = ("95 in 100", "Retained", "Difference", "Lost", "Won")
    chosen = [
        (name, f"{of['questions']:,}", *_beside_dense(of["acc"], of, more), *_of_choices(of))
        for name, of, more in _scores(quality, "zero_shot")
    ]
    written = [
        (name, f"{of['questions']:,}", *_beside_dense(of["exact_match"], of, more), *_of_answers(of))
        for name, of, more in _scores(quality, "generation")
    ]
    of_choices = ("Zero-shot", "Questions", "acc", *beside, "acc_norm", "95 in 100", "Chance")
    of_answers = ("Generated", "Questions", "Exact match", *beside, "Tokens", "Never stopped")
    return [
        Table.of("Divergence from the dense model, KL in nats per token", QUALITY, divergence, "Divergence"),
        Table("Zero-shot accuracy", of_choices, chosen),
        Table("Generated answers", of_answers, written),
    ]


def _of_choices(of: Json) -> tuple[str, ...]:
    return (*accuracy(of["acc_norm"], of["questions"]), percent(of["chance"]))


def _of_answers(of: Json) -> tuple[str, ...]:
    return f"{of['mean_tokens']:.0f}", percent(of["never_stopped"])


def _beside_dense(share: float | None, of: Json, more: Json) -> tuple[str, ...]:
    """A share of right answers with its interval, and how it differs from the dense model's, paired by question.

    That is the share of it that is retained, the difference, and how many right answers became wrong, and wrong ones
    right.
    """
    difference, flips = more["accuracy_difference"] or {}, more["flipped"] or {}
    return (
        *accuracy(share, of["questions"]),
        percent_with_error(more["accuracy_retained"], more["accuracy_retained_stderr"]),
        percent_with_error(difference.get("mean"), difference.get("stderr"), signed=True),
        *(f"{flips[key]:,}" if flips else NOTHING for key in ("right_to_wrong", "wrong_to_right")),
    )


def _scores(quality: Json, kind: str) -> list[tuple[str, Json, Json]]:
    """The scores of one kind of tasks, ordered by task: the task and the form, its figures, and those beside dense."""
    keys = ("accuracy_retained", "accuracy_retained_stderr", "accuracy_difference", "flipped")
    scores = [
        (f"{task} {form}", figures, {key: (quality.get(key) or {}).get(form, {}).get(task) for key in keys})
        for form, by_task in (quality.get(kind) or {}).items()
        for task, figures in by_task.items()
    ]
    return sorted(scores, key=lambda score: score[0].partition(" ")[0])


def _speed(speed: Json) -> Iterator[Table]:
    runtime = speed.get("runtime", "onnxruntime")  # reports from before there were several runtimes name none
    judged = [
        (
            *(JUDGED[of["figure"]], case_in_words(of["batch"], of["depth"]) or NOTHING, Cell(of["verdict"])),
            f"{times(of['found'])}×",
            NOTHING if of["figure"] == SIZE else interval_in_words(of["low"], of["high"]),
            f"{'≤' if of['figure'] == SIZE else '≥'} {figure(of['limit'])}×",
        )
        for of in speed["verdicts"]
    ]
    yield Table(
        "Speed and size with their limits", ("Figure", "At", "Result", "Measured", "Interval", "Limit"), judged
    )
    timed = [
        (
            *(case_in_words(case.batch, case.depth), kind, milliseconds(case.dense_ms), milliseconds(case.ms)),
            *(case.words, case.interval, NOTHING if case.ideal is None else f"{times(case.ideal)}×"),
            percent(case.share),
        )
        for kind in ("decode", "prefill")
        for case in speedups(speed, kind)
    ]
    caption = f"Times and speed-ups in {runtime}, and what the smaller shapes would allow at best"
    titles = ("At", "Figure", "Dense model", "This variant", "Speed-up", "Interval", "Ideal", "Reached")
    yield Table(caption, titles, timed)


def _layers(layers: list[Json]) -> Table:
    """A row for each layer: the share of its weights that is left, and its sizes, such as numbers of heads."""
    sizes = [key for key in dict.fromkeys(key for layer in layers for key in layer) if key != "kept"]
    rows = [
        (str(index), percent(layer["kept"]), *(str(layer.get(key, "")) for key in sizes))
        for index, layer in enumerate(layers)
    ]
    head = ("Layer", "Weights kept", *(key.replace("_", " ").capitalize() for key in sizes))
    return Table("Layers after pruning", head, rows)
