"""Reads from the JSON object of a validation what all report formats share: checks, failures, advice."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from validation.reports.numbers import figure

Json = Mapping[str, Any]

#: Used for the folder as a whole instead of a variant's name.
FOLDER = "the folder as a whole"

#: Meaning of the exit codes of a validation.
EXIT_WORDS = {
    0: "passed",
    3: "parity failed",
    4: "quality failed",
    5: "speed failed",
    6: "the environment lacks something, or a check could not judge",
    7: "an artifact is damaged or incomplete",
}

_ENVIRONMENT, _DAMAGED = 6, 7
#: The checks of whether files compute what they should.
_FILE_CHECKS = frozenset({"integrity", "parity", "router"})
#: What verdicts say of files, and of figures with limits.
_OF_FILES = {"passed": "verified", "skipped": "not checked"}
_OF_LIMITS = {"passed": "within its limit", "failed": "outside its limit", "skipped": "no limit set"}
_ADVICE = {
    "integrity": "Files are missing or differ from the manifest: copy the folder again, or export it again.",
    "parity": "A written file does not compute what the model in hf/ computes: do not ship it. Convert the model "
    "again; if the precision is not fp32, choose one that rounds less.",
    "quality": "Pruning costs more than the limit allows: export at a lower --ratio or with more "
    "--calibration-tokens, or raise the limit.",
    "speed": "Measure again on an otherwise idle machine; if it fails again, export at a higher --ratio "
    "or in another --precision.",
    "router": "The router does not select the right variants: export them again into this folder.",
}
_LACKING = "The machine lacks something: run seap-export doctor to see what and how to fix it."
_FOLLOW = " With --bisect, validate shows where the error starts."
_INCONCLUSIVE = {
    "speed": "The result is inconclusive: close other programs, or use more --runs.",
    "parity": "The result is inconclusive: compare more tokens, with the option that the reason names.",
}
#: Not allowed in XML and HTML: control characters and lone surrogates.
_UNPRINTABLE = re.compile(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
#: The name of each parity figure in texts, and its key in a case.
_FIGURES = {
    "max_abs": ("max abs", "max_abs"),
    "cache_error": ("cache error", "cache_error"),
    "mean_kl": ("mean KL", "mean_kl_nats"),
    "clear_top1_agreement": ("top-1 of clear choices", "top1_agreement_margin"),
}
_AT_LEAST = frozenset({"clear_top1_agreement"})


def clean(text: str) -> str:
    """The text without characters that XML and HTML do not allow."""
    return _UNPRINTABLE.sub("", text)


def label(variant: str | None) -> str:
    """The subject of a check in words: the variant's name, or the folder as a whole."""
    return FOLDER if variant is None else variant


def check_label(check: Json) -> str:
    """The name of a check, with what it compares where there are several of a kind."""
    return f"{check['check']} of {check['subject']}" if check["subject"] else str(check["check"])


def subjects(report: Json) -> list[str | None]:
    """The folder (None) first, then every variant that has results or a check."""
    checked = [check["variant"] for check in report["checks"]]
    return list(dict.fromkeys([None, *report["variants"], *checked]))


def failed_checks(report: Json) -> list[Json]:
    """The checks of a report that failed or could not judge, in their order."""
    return [check for check in report["checks"] if check["exit_code"]]


def worst(verdicts: Collection[str]) -> str:
    """The verdict on all together: of these, the one that weighs most."""
    return next((verdict for verdict in ("failed", "not judged", "passed") if verdict in verdicts), "skipped")


def verdict_of(report: Json, variant: str | None) -> str:
    """The verdict of a variant or of the folder: failed if one check failed, skipped if all were."""
    return worst({check["verdict"] for check in report["checks"] if check["variant"] == variant})


def headline(report: Json) -> str:
    """One line with the number of checks, and how many have each verdict."""
    verdicts = [check["verdict"] for check in report["checks"]]
    ends = ("failed", "not judged", "passed", "skipped")
    parts = [f"{verdicts.count(end)} {end}" for end in ends if end in verdicts]
    return f"{counted(len(verdicts), 'check')}: {', '.join(parts)}" if parts else "Nothing was checked"


def status(report: Json) -> str:
    """A sentence without a full stop on what was checked: the files, and the limits of quality and speed."""
    files = worst([check["verdict"] for check in report["checks"] if check["check"] in _FILE_CHECKS])
    parts = [f"Files {_OF_FILES.get(files, files)}"]
    for name in ("quality", "speed"):
        verdict = worst([check["verdict"] for check in report["checks"] if check["check"] == name])
        parts.append(f"{name}: {_OF_LIMITS.get(verdict, verdict)}")
    return "; ".join(parts)


def advice(report: Json, check: Json) -> str:
    """Sentences that say what to do about a failed check."""
    name, code = check["check"], check["exit_code"]
    if code == _ENVIRONMENT:
        return _INCONCLUSIVE[name] if check["verdict"] == "not judged" else _LACKING
    if code == _DAMAGED and name != "router":
        return _ADVICE["integrity"]
    followed = bisection(report, check["variant"]) is not None
    return _ADVICE[name] + (_FOLLOW if name == "parity" and not followed else "")


def bisection(report: Json, variant: str | None) -> Json | None:
    """Where a variant's error starts; None if there was no bisection or the variant has no results."""
    bisect: Json | None = report["variants"][variant]["bisect"] if variant in report["variants"] else None
    return bisect


def remarks(report: Json) -> list[tuple[str, str]]:
    """Why checks were skipped, and the notes of others, each with its subject."""
    lines = []
    for check in report["checks"]:
        skipped = " was skipped" if check["verdict"] == "skipped" else ""
        for note in check["notes"]:
            if note not in check["reasons"]:
                lines.append((label(check["variant"]), f"{check_label(check)}{skipped}: {note}"))
    return list(dict.fromkeys(lines))


def written_answers(tasks: Mapping[str, Json]) -> str:
    """Which tasks have answers that the dense model wrote; "" if none has.

    Args:
        tasks: The object of each task in a manifest or a report, by name.
    """
    names = ", ".join(name for name, task in tasks.items() if task.get("answers") == "model")
    return f"The answers in the texts of {names} were written by the dense model." if names else ""


def nearest_limits(parity: Json) -> str:
    """Each judged figure of a parity run in the case where it is nearest to its limit, with the limit there."""
    nearest: dict[str, tuple[float, str]] = {}
    for case in parity["cases"]:
        for name, value, limit in _judged(case):
            share = (1 - value) / max(1 - limit, 1e-9) if name in _AT_LEAST else value / limit
            if name not in nearest or share > nearest[name][0]:
                nearest[name] = share, f"{_held(name, value, limit)} ({case['case']}, {case['stage']})"
    return ", ".join(words for _, words in nearest.values())


def case_limits(case: Json) -> str:
    """Each judged figure of a stage of a parity case with its limit."""
    return ", ".join(_held(*judged) for judged in _judged(case))


def case_failures(case: Json) -> list[str]:
    """Why a stage of a parity case did not pass: defects that no limit excuses, and each exceeded limit."""
    if case["verdict"] == "passed":
        return []
    failures = [_defect(defect) for defect in case["defects"]]
    if case["cache_defect"]:
        failures.append(case["cache_defect"])
    failures += [_held(*judged) for judged in _judged(case) if _is_beyond(*judged)]
    if case["verdict"] == "not judged":
        failures.append("too few tokens to judge the stage alone")
    return failures or ["failed"]


def _judged(case: Json) -> Iterator[tuple[str, float, float]]:
    """The name, the value and the limit of each judged figure that could be measured."""
    for name, limit in case["limits"].items():
        value = case.get(_FIGURES[name][1] if name in _FIGURES else name)
        if value is not None:
            yield name, value, limit


def _is_beyond(name: str, value: float, limit: float) -> bool:
    return value < limit if name in _AT_LEAST else value > limit


def _held(name: str, value: float, limit: float) -> str:
    """A figure held against its limit, in words."""
    signs = "≥<" if name in _AT_LEAST else "≤>"
    return f"{_word(name)} {figure(value)} {signs[_is_beyond(name, value, limit)]} {figure(limit)}"


def texts_in_words(texts: Json) -> str:
    """A sentence on how many texts and conversations were compared in a runtime."""
    number, strings = texts["conversations"], counted(texts["strings"], "text")
    talks = f", and its chat template for {counted(number, 'conversation')}" if number else ""
    return f"Its tokenizer was compared for {strings}{talks}."


def diverges_first(first: Json) -> str:
    """The first diverging tensor of a bisection in words."""
    where = "outside the layers" if first["layer"] is None else f"layer {first['layer']}"
    how = "not finite" if first["error"] is None else f"relative error {figure(first['error'])}"
    return f"{where}, {first['sublayer']} ({how})"


def _word(name: str) -> str:
    """The name of a parity figure in words, such as `mean KL`."""
    return _FIGURES[name][0] if name in _FIGURES else name.replace("_", " ")


def _defect(defect: Json) -> str:
    """A NaN, an infinity or a wrong shape, in words."""
    if defect["kind"] == "shape":
        return str(defect["detail"])
    kind = {"nan": "NaN", "inf": "Inf"}.get(defect["kind"], defect["kind"])
    return f"{kind} in the {defect['side']}'s logits ({counted(defect['tokens'], 'token')})"


def counted(number: int, noun: str) -> str:
    """The number and the noun, in the plural unless the number is 1: `2 checks`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
