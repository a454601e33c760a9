"""A report as a self-contained page: no network, no scripts, no fonts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from validation.reports.html.charts import Bar, bars
from validation.reports.html.details import variant_section
from validation.reports.html.frontier import frontier_section
from validation.reports.html.general_text import elsewhere_section
from validation.reports.html.markup import Markup, pill, table, tag
from validation.reports.html.style import STYLE
from validation.reports.html.tiles import variants_section
from validation.reports.numbers import NOTHING, megabytes
from validation.reports.reading import (
    EXIT_WORDS,
    Json,
    advice,
    bisection,
    check_label,
    diverges_first,
    failed_checks,
    headline,
    label,
    remarks,
)

_TITLES = {"passed": "✓ Passed", "failed": "✗ Failed"}
_FORMS = {"hf": ("a", "safetensors (hf)"), "onnx": ("b", "ONNX")}
_MOST_REASONS = 5
# The page shows names chosen by others; should one ever get through as markup, it may neither load nor run anything.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def html_page(report: Json) -> str:
    """The page: the verdict and what to do, then how much smaller, faster and worse the variants are, then the rest.

    Args:
        report: The JSON object of a validation report.

    Returns:
        A UTF-8 document without control characters; equal reports give equal documents.
    """
    title = tag("title", f"{_TITLES[report['verdict']]}: {report['name']}")
    anchors = {name: f"variant-{index}" for index, name in enumerate(report["variants"])}
    body = tag(
        "main",
        _verdict(report),
        _failures(report, anchors),
        variants_section(report, anchors),
        frontier_section(report.get("frontier")),
        _checks(report),
        _divergence(report),
        elsewhere_section(report),
        *(variant_section(report, name, anchor) for name, anchor in anchors.items()),
        _origin(report),
    )
    head = (
        '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n<link rel="icon" href="data:,">\n'
    )
    head = f"<head>\n{head}{title}\n<style>{STYLE}</style>\n</head>"
    return f'<!doctype html>\n<html lang="en">\n{head}\n<body>\n{body}\n</body>\n</html>\n'


def _verdict(report: Json) -> Markup:
    """The verdict, what failed first, and what was checked."""
    verdict, source = report["verdict"], report["source"]
    of = "" if source is None else f" of {source['name']}"
    number = len(report["variants"])
    lines = [tag("p", report["failure"], class_="failure")] if report["failure"] else []
    code = report["exit_code"]
    lines.append(tag("p", f"{number} variant{'' if number == 1 else 's'}{of}. {headline(report)}."))
    lines.append(tag("p", f"Exit code {code}: {EXIT_WORDS[code]}.", class_="quiet"))
    return tag("header", tag("h1", f"{_TITLES[verdict]}: {report['name']}"), *lines, class_=verdict, id="verdict")


def _failures(report: Json, anchors: Mapping[str, str]) -> Markup:
    """Every failed check: the reasons, where the error starts and what to do."""
    items = []
    for check in failed_checks(report):
        variant = check["variant"]
        name: str = label(variant)
        linked = tag("a", name, href=f"#{anchors[variant]}") if variant in anchors else name
        reasons = [tag("li", reason) for reason in check["reasons"]]
        parts = [tag("b", linked, f": {check_label(check)}"), tag("ul", *reasons[:_MOST_REASONS])]
        if len(reasons) > _MOST_REASONS:
            rest = reasons[_MOST_REASONS:]
            parts.append(tag("details", tag("summary", f"{len(rest)} more"), tag("ul", *rest)))
        bisect = bisection(report, variant) if check["check"] == "parity" else None
        if bisect is not None and bisect["first"] is not None:
            parts.append(tag("p", "The error starts at ", tag("b", diverges_first(bisect["first"])), "."))
        parts.append(tag("p", "What to do: ", advice(report, check)))
        items.append(tag("li", *parts))
    return tag("section", tag("h2", "What failed"), tag("ol", *items), id="failures") if items else Markup()


def _checks(report: Json) -> Markup:
    """A row for each variant, a column for each check, then the remarks."""
    names = list(dict.fromkeys(map(check_label, report["checks"])))
    verdicts = {(check["variant"], check_label(check)): check["verdict"] for check in report["checks"]}
    rows = [
        (
            label(subject),
            *(pill(verdicts[subject, name]) if (subject, name) in verdicts else NOTHING for name in names),
        )
        for subject in dict.fromkeys(check["variant"] for check in report["checks"])
    ]
    parts: list[Markup] = [tag("h2", "Checks"), table("Verdicts", ("Subject", *names), rows)]
    told = [tag("li", tag("b", who), f": {words}") for who, words in remarks(report)]
    if told:
        parts += [tag("h3", "Remarks"), tag("ul", *told)]
    return tag("section", *parts)


def _divergence(report: Json) -> Markup:
    """Mean KL divergence from the dense model by task, with a bar for each form of a variant."""
    rows, forms = [], dict[str, list[str]]()
    for name, variant in report["variants"].items():
        quality = variant["quality"] or {}
        limit = (quality.get("limits") or {}).get("max_kl_nats")
        task = "" if variant["task"] is None or variant["task"] in name else f" ({variant['task']})"
        for form, figures in (quality.get("divergence") or {}).items():
            kind, words = _FORMS.get(form, ("b", form))
            forms.setdefault(kind, [])
            forms[kind] += [words] if words not in forms[kind] else []
            rows.append(
                Bar(f"{name}{task}, {form}", figures["mean_kl_nats"], kind, limit, figures.get("mean_kl_nats_stderr"))
            )
    if not rows:
        return Markup()
    legend = [(kind, ", ".join(words)) for kind, words in sorted(forms.items())]
    if any(row.limit is not None for row in rows):
        legend.append(("dash", "limit"))
    chart = bars("Mean KL divergence from the dense model", "nats per token", rows, legend)
    return tag("section", tag("h2", "Cost of pruning by task"), chart)


def _origin(report: Json) -> Markup:
    """Hashes, splits, versions and the machine."""
    parts: list[Markup] = [tag("h2", "Provenance")]
    if report["source"] is not None:
        digest = tag("code", report["source"]["sha256"])
        parts.append(tag("p", "Dense model: ", tag("b", report["source"]["name"]), ", SHA-256 ", digest))
    if report["tasks"]:
        keys = list(dict.fromkeys(key for task in report["tasks"].values() for key in task))
        rows = [(name, *(_plain(task.get(key)) for key in keys)) for name, task in report["tasks"].items()]
        head = ("Task", *(key.replace("_", " ").capitalize() for key in keys))
        parts.append(table("Seeds and splits of the tasks", head, rows))
    parts.append(table("Versions", ("Package", "Version"), list(report["versions"].items())))
    machine = [(name.capitalize(), _plain(value)) for name, value in report["machine"].items()]
    parts.append(table("Machine", ("Part", "Value"), machine))
    files = [
        (tag("code", path), megabytes(file["bytes"]), tag("code", file["sha256"]))
        for path, file in report["files"].items()
    ]
    if files:
        listed = table("SHA-256 of every file", ("File", "Size", "SHA-256"), files)
        parts.append(tag("details", tag("summary", f"{len(files)} files with their SHA-256"), listed))
    return tag("section", *parts)


def _plain(value: Any) -> str:
    """A value of unknown type as text."""
    if value is None:
        return NOTHING
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
