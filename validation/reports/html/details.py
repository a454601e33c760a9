"""The section of one variant: parity, error by layer, quality, speed, layer sizes."""

from __future__ import annotations

from validation.reports.figures import QUALITY
from validation.reports.html.charts import ErrorPoint, columns, errors
from validation.reports.html.markup import Markup, join, pill, table, tag
from validation.reports.html.speed import speed_section
from validation.reports.numbers import figure, percent, percent_with_error, ratio
from validation.reports.reading import Json, case_failures, diverges_first, limits_in_words, texts_in_words
from validation.reports.variants import verdict_of

_SCORES = ("Task", "Form", "acc", "acc_norm", "Chance", "Questions", "Difference", "Lost / won")
_EXACT = ("Task", "Form", "Exact match", "Questions", "Difference", "Lost / won", "Tokens", "Never stopped")
_OVERFLOW_WORDS = {"nan": "NaN", "inf": "Inf", "near": "near the largest number of its type"}
_NAME_LETTERS = 20  # fit next to the pointer on a phone


def variant_section(report: Json, name: str, anchor: str) -> Markup:
    """Everything that was measured for a variant, and why other checks were skipped."""
    variant = report["variants"][name]
    parity = [(_parity(report, folder), report["verdict"]) for folder, report in variant["parity"].items()]
    parts = (
        *(markup for markup, verdict in parity if verdict != "passed"),
        _bisect(variant["bisect"]),
        _quality(variant["quality"]),
        speed_section(variant["speed"]),
        _layers(variant["layers"]),
        *(markup for markup, verdict in parity if verdict == "passed"),
    )
    head = tag("h2", f"{name} ", pill(verdict_of(report, name)))
    form = tag("p", " ".join(_written(format) for format in variant["formats"].values()), class_="quiet")
    absent = [
        tag("p", f"{check['check'].capitalize()} was skipped: {'; '.join(check['notes'])}.", class_="quiet")
        for check in report["checks"]
        if check["variant"] == name and check["verdict"] == "skipped"
    ]
    return tag("section", head, form, *parts, *absent, id=anchor)


def _written(format: Json) -> str:
    """How a folder is written."""
    dialect = format["form"].get("dialect")
    return f"{format['title']} in {format['precision']}{f', {dialect} dialect' if dialect else ''}."


def _parity(parity: Json, name: str) -> Markup:
    """Prefill and decode of every case, folded if it passed."""
    head = ("Case", "Stage", "Result", "Tokens", "Max abs", "Mean KL", "p99.9 KL", "Max KL", "Top-1")
    more = ("Top-1, clear margin", "Perplexity ratio", "KV cache error", "KV cache, max abs")
    rows = []
    for case in parity["cases"]:
        failures = case_failures(case)
        result = join([pill(case["verdict"]), *(tag("small", words) for words in failures)])
        kl = (figure(case[key]) for key in ("mean_kl_nats", "p999_kl_nats", "max_kl_nats"))
        agreement = (percent(case[key]) for key in ("top1_agreement", "top1_agreement_margin"))
        last = (ratio(case["perplexity_ratio"]), figure(case["cache_error"]), figure(case["cache_max_abs"]))
        tokens, max_abs = str(case["tokens"]), figure(case["max_abs"])
        rows.append((case["case"], case["stage"], result, tokens, max_abs, *kl, *agreement, *last))
    limits = f"KL in nats per token. Limits: {limits_in_words(parity)}."
    texts = parity.get("texts")
    if texts:
        result = join([pill(texts["verdict"]), *(tag("small", words) for words in texts["reasons"])])
        rows.append(("texts", "", result, *("" for _ in (*head[3:], *more))))
        limits = f"{limits} {texts_in_words(texts)}"
    told = tag("p", f"{name}, run by {parity['runtime']}, compared with the model in hf/. {limits}", class_="quiet")
    number = len(parity["cases"])
    told_briefly = f" {number} comparisons, largest difference of a logit {figure(parity['max_abs'])}"
    title, verdict = tag("b", f"Parity of {name} "), pill(parity["verdict"])
    words = tag("summary", title, verdict, tag("span", told_briefly, class_="quiet"))
    is_open = {} if parity["verdict"] == "passed" else {"open": ""}
    return tag("details", words, told, table("Parity by case and stage", (*head, *more), rows), **is_open)


def _bisect(bisect: Json | None) -> Markup:
    """Where the error starts and which tensors overflow."""
    if bisect is None:
        return Markup()
    first = bisect["first"]
    taps = [ErrorPoint(tap["name"], tap["layer"], tap["error"]) for tap in bisect["taps"]]
    parts: list[Markup] = [tag("h3", "Error by layer")]
    where = f"in {bisect['stage']} of case '{bisect['case']}'"
    if first is None:
        parts.append(tag("p", f"No tensor diverges by itself {where}."))
    else:
        words = tag("b", diverges_first(first))
        name = tag("code", first["name"])
        parts.append(tag("p", "First to diverge ", where, ": ", words, ", tensor ", name, "."))
    if taps:
        index = next((i for i, tap in enumerate(taps) if first is not None and tap.name == first["name"]), None)
        parts.append(errors("Relative error of each tensor", taps, index, _pointer(first)))
    if bisect["overflows"]:
        rows = [
            (item["name"], _OVERFLOW_WORDS.get(item["kind"], item["kind"]), figure(item["reference_max_abs"]))
            for item in bisect["overflows"]
        ]
        parts.append(table("Tensors that overflow", ("Tensor", "In the ONNX file", "Largest in the model"), rows))
    return join(parts)


def _pointer(first: Json | None) -> str:
    """A short name of the first diverging tensor: the name of its sublayer, or the end of it."""
    if first is None:
        return ""
    names = [first["sublayer"], first["sublayer"].rsplit(".")[-1]]
    layer = "" if first["layer"] is None else f"layer {first['layer']}, "
    for name in names:
        if len(layer + name) <= _NAME_LETTERS:
            return layer + name
    return f"{layer}{names[-1]}"[: _NAME_LETTERS - 1] + "…"


def _quality(quality: Json | None) -> Markup:
    """Divergence from the dense model, and zero-shot accuracy next to the dense model's."""
    if quality is None:
        return Markup()
    parts: list[Markup] = [tag("h3", "Quality compared with the dense model")]
    divergence = quality.get("divergence") or {}
    if divergence:
        head = ("Form", *(row.head for row in QUALITY))
        parts.append(
            table("Divergence, KL in nats per token", head, [_divergence(*item) for item in divergence.items()])
        )
    sample = quality.get("sample")
    if sample:
        texts = [("Prompt", sample["prompt"]), ("Dense model", sample["dense"]), ("This variant", sample["variant"])]
        parts.append(table("A held-out prompt, continued by both models", ("", "Text"), texts, is_prose=True))
    return join([*parts, _scores(quality), _exact_matches(quality)])


def _divergence(form: str, figures: Json) -> tuple[str | Markup, ...]:
    """A row: every figure of a form's divergence."""
    cells = [row.cell({"quality": figures}) for row in QUALITY]
    return form, *(join([cell.main, tag("small", cell.brief)]) for cell in cells)


def _scores(quality: Json) -> Markup:
    rows = [
        (
            task,
            form,
            percent_with_error(figures["acc"], figures.get("acc_stderr")),
            percent_with_error(figures["acc_norm"], figures.get("acc_norm_stderr")),
            percent(figures["chance"]),
            f"{figures['questions']:,}",
            _difference(quality, form, task),
            _flips(quality, form, task),
        )
        for form, by_task in (quality.get("zero_shot") or {}).items()
        for task, figures in by_task.items()
    ]
    return table("Zero-shot accuracy", _SCORES, sorted(rows, key=lambda row: row[0])) if rows else Markup()


def _exact_matches(quality: Json) -> Markup:
    rows = [
        (
            task,
            form,
            percent_with_error(figures["exact_match"], figures.get("exact_match_stderr")),
            f"{figures['questions']:,}",
            _difference(quality, form, task),
            _flips(quality, form, task),
            f"{figures['mean_tokens']:.0f}",
            percent(figures["never_stopped"]),
        )
        for form, by_task in (quality.get("generation") or {}).items()
        for task, figures in by_task.items()
    ]
    return table("Generated answers", _EXACT, sorted(rows, key=lambda row: row[0])) if rows else Markup()


def _difference(quality: Json, form: str, task: str) -> str:
    """The accuracy less that of the dense model, paired by question."""
    more = (quality.get("accuracy_difference") or {}).get(form, {}).get(task)
    return "" if more is None else percent_with_error(more["mean"], more["stderr"], signed=True)


def _flips(quality: Json, form: str, task: str) -> str:
    """How many right answers of the dense model became wrong, and wrong ones right."""
    flips = (quality.get("flipped") or {}).get(form, {}).get(task)
    return "" if flips is None else f"{flips['right_to_wrong']:,} / {flips['wrong_to_right']:,}"


#: The charts of layers: title, unit, and what is shown by its key in the report.
_SIZES = (
    ("Attention heads left", "heads", (("num_attention_heads", "query heads"), ("num_key_value_heads", "KV heads"))),
    ("Channels of convolutions left", "channels", (("conv_dim", "channels"),)),
    ("MLP neurons left", "neurons", (("intermediate_size", "neurons"),)),
    ("Experts left", "experts", (("num_experts", "experts"),)),
    ("Neurons of the shared expert left", "neurons", (("shared_expert_intermediate_size", "shared neurons"),)),
    ("Neurons of an expert left", "neurons", (("moe_intermediate_size", "neurons of an expert"),)),
)


def _layers(layers: list[Json]) -> Markup:
    """What pruning left in each layer."""
    if not layers:
        return Markup()
    kept = [100 * layer["kept"] for layer in layers]
    charts = [columns("Weights kept", "% of the layer's weights", [("a", "weights", kept)], 100.0)]
    for title, unit, sizes in _SIZES:
        shown = [(key, label) for key, label in sizes if any(key in layer for layer in layers)]
        series = [
            (style, label, [float(layer.get(key, 0)) for layer in layers])
            for style, (key, label) in zip("ab", shown, strict=False)
        ]
        charts += [columns(title, unit, series, 0.0)] if shown else []
    columns_of = [
        (key, label) for _, _, sizes in _SIZES for key, label in sizes if any(key in layer for layer in layers)
    ]
    rows = [
        (str(index), percent(layer["kept"]), *(str(layer.get(key, "")) for key, _ in columns_of))
        for index, layer in enumerate(layers)
    ]
    head = ("Layer", "Weights kept", *(label[0].upper() + label[1:] for _, label in columns_of))
    numbers = tag("details", tag("summary", "As numbers"), table("Layers after pruning", head, rows))
    return join([tag("h3", "Layers after pruning"), tag("div", *charts, class_="charts"), numbers])
