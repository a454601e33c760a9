"""What the reports tell alike, read from the JSON object of a validation: checks, failures, advice, speed-ups."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from validation.reports.numbers import figure

__all__ = [
    "EXIT_WORDS",
    "FOLDER",
    "Json",
    "advice",
    "bisection",
    "case_failures",
    "clean",
    "diverges_first",
    "failed_checks",
    "headline",
    "label",
    "limits_in_words",
    "remarks",
    "speedups",
    "subjects",
]

Json = Mapping[str, Any]

#: Stands for the folder as a whole, where a variant's name would stand.
FOLDER = "the folder as a whole"

#: What the exit codes of a validation mean.
EXIT_WORDS = {
    0: "passed",
    3: "parity failed",
    4: "quality failed",
    5: "speed failed",
    6: "the environment lacks something, or is too noisy to judge the speed",
    7: "an artifact is damaged or incomplete",
}

_ENVIRONMENT, _DAMAGED = 6, 7
_ADVICE = {
    "integrity": "Files are missing or are not those of the manifest: copy the folder again, or export it again.",
    "parity": "The ONNX file does not compute what the model in hf/ computes: convert it again, in a precision that "
    "rounds less if it is not fp32, and do not ship this one.",
    "quality": "Pruning costs more than the limit allows: export at a lower --ratio or with more --samples, "
    "or allow more.",
    "speed": "Measure again on a machine that does nothing else; if it stays, export at a higher --ratio "
    "or in another --precision.",
    "router": "The router does not lead to the variants as it should: export them again into this folder.",
}
_LACKING = "The machine lacks something: seap-export doctor says what, and how to mend it."
_FOLLOW = " With --bisect, validate shows where the error starts."
_NOISY = "Nothing is proved: close other programs, or give more --runs."
#: Neither XML nor HTML may carry these: control characters and halves of surrogate pairs.
_UNPRINTABLE = re.compile(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
#: What a limit of parity is called, and where a case has the figure.
_FIGURES = {
    "max_abs": ("max abs", "max_abs"),
    "cache_error": ("cache error", "cache_error"),
    "mean_kl": ("mean KL", "mean_kl_nats"),
    "clear_top1_agreement": ("top-1 of clear choices", "top1_agreement_margin"),
}
_AT_LEAST = frozenset({"clear_top1_agreement"})


def clean(text: str) -> str:
    """The text without characters that XML and HTML may not carry."""
    return _UNPRINTABLE.sub("", text)


def label(variant: str | None) -> str:
    """What a check is of, in words."""
    return FOLDER if variant is None else variant


def subjects(report: Json) -> list[str | None]:
    """The folder (None) first, then every variant that has an entry or a check."""
    checked = [check["variant"] for check in report["checks"]]
    return list(dict.fromkeys([None, *report["variants"], *checked]))


def failed_checks(report: Json) -> list[Json]:
    """The checks that failed, in their order."""
    return [check for check in report["checks"] if check["verdict"] == "failed"]


def headline(report: Json) -> str:
    """How many checks there were, and how they ended."""
    verdicts = [check["verdict"] for check in report["checks"]]
    ends = ("failed", "passed", "skipped")
    parts = [f"{verdicts.count(end)} {end}" for end in ends if end in verdicts]
    return f"{_counted(len(verdicts), 'check')}: {', '.join(parts)}" if parts else "Nothing was checked"


def advice(report: Json, check: Json) -> str:
    """What to do about a failed check."""
    name, code = check["check"], check["exit_code"]
    if code == _ENVIRONMENT:
        return _NOISY if name == "speed" else _LACKING
    if code == _DAMAGED and name != "router":
        return _ADVICE["integrity"]
    followed = bisection(report, check["variant"]) is not None
    return _ADVICE[name] + (_FOLLOW if name == "parity" and not followed else "")


def bisection(report: Json, variant: str | None) -> Json | None:
    """Where a variant's error starts; None where that was not searched, or it has no entry."""
    found: Json | None = report["variants"][variant]["bisect"] if variant in report["variants"] else None
    return found


def remarks(report: Json) -> list[tuple[str, str]]:
    """What a verdict does not say: skipped checks, notes, limits looser than the default; with whom each is about."""
    found = []
    for check in report["checks"]:
        skipped = " was skipped" if check["verdict"] == "skipped" else ""
        for note in check["notes"]:
            if note not in check["reasons"]:
                found.append((label(check["variant"]), f"{check['check']}{skipped}: {note}"))
    for name, variant in report["variants"].items():
        for limit in (variant["parity"] or {}).get("looser_limits", ()):
            found.append((name, f"parity: {limit}"))
    return list(dict.fromkeys(found))


def limits_in_words(parity: Json) -> str:
    """The limits that a parity run was judged by, and where torch's own noise widened them."""
    parts = [
        f"{_word(name)} {'≥' if name in _AT_LEAST else '≤'} {figure(value)}"
        for name, value in parity["limits"].items()
    ]
    wider = {
        f"{_word(name)} ≤ {figure(value)} in {case['case']}"
        for case in parity["cases"]
        for name, value in case["limits"].items()
        if name not in _AT_LEAST and value > parity["limits"][name]
    }
    noisy = f"; ten times torch's own noise where that is more: {', '.join(sorted(wider))}" if wider else ""
    return ", ".join(parts) + noisy


def case_failures(case: Json) -> list[str]:
    """Why a stage of a parity case fails: what no limit excuses, and each limit that it is beyond."""
    if case["verdict"] == "passed":
        return []
    failures = [_defect(defect) for defect in case["defects"]]
    if case["cache_defect"]:
        failures.append(case["cache_defect"])
    for name, limit in case["limits"].items():
        found = case.get(_FIGURES[name][1] if name in _FIGURES else name)
        if found is not None and (found < limit if name in _AT_LEAST else found > limit):
            sign = "<" if name in _AT_LEAST else ">"
            failures.append(f"{_word(name)} {figure(found)} {sign} {figure(limit)}")
    return failures or ["failed"]


def diverges_first(first: Json) -> str:
    """The first tensor of a bisection that diverges, in words."""
    where = "outside the layers" if first["layer"] is None else f"layer {first['layer']}"
    how = "not finite" if first["error"] is None else f"relative error {figure(first['error'])}"
    return f"{where}, {first['sublayer']} ({how})"


def speedups(speed: Json | None, what: str) -> list[float]:
    """Speed-ups of `decode` or `prefill` over the dense model: those that were judged, or else of all cells."""
    if speed is None:
        return []
    judged = [verdict["found"] for verdict in speed["verdicts"] if verdict["figure"] == f"{what}_speedup"]
    if judged:
        return judged
    key = {"decode": "decode_ms_per_token", "prefill": "prefill_ms"}[what]
    dense = {(cell["batch"], cell["depth"]): cell[key] for cell in speed["dense"]}
    own = {(cell["batch"], cell["depth"]): cell[key] for cell in speed["variant"]}
    return [dense[cell] / value for cell, value in own.items() if cell in dense and value]


def _word(name: str) -> str:
    """What a figure of parity is called."""
    return _FIGURES[name][0] if name in _FIGURES else name.replace("_", " ")


def _defect(defect: Json) -> str:
    """A NaN, an infinity or a wrong shape, in words."""
    if defect["kind"] == "shape":
        return str(defect["detail"])
    kind = {"nan": "NaN", "inf": "Inf"}.get(defect["kind"], defect["kind"])
    return f"{kind} in the {defect['side']}'s logits ({_counted(defect['tokens'], 'token')})"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
