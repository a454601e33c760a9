"""A report as JUnit XML, which CI systems display test by test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree

from validation.reports.files import COLUMNS, measured_files
from validation.reports.numbers import NOTHING
from validation.reports.reading import (
    Json,
    case_failures,
    case_limits,
    check_label,
    clean,
    failed_checks,
    label,
    subjects,
    texts_in_words,
)


@dataclass(frozen=True)
class _Case:
    """A testcase: its name, why it failed or could not judge (an error), why it was skipped, and further notes."""

    name: str
    kind: str
    reasons: tuple[str, ...] = ()
    skipped: str | None = None
    notes: tuple[str, ...] = ()
    is_error: bool = False


def junit_xml(report: Json) -> str:
    """A testsuite for the folder and each variant, with a testcase for each check and each parity case and stage.

    The figures of a variant are properties of its testsuite.

    Args:
        report: The JSON object of a validation report.

    Returns:
        A UTF-8 document without control characters or times; equal reports give equal documents.
    """
    root = ElementTree.Element("testsuites", name=clean(f"seap-export validate {report['name']}"))
    for subject in subjects(report):
        cases = list(_cases(report, subject))
        suite = ElementTree.SubElement(root, "testsuite", name=clean(label(subject)))
        _count(suite, cases)
        _write_figures(suite, report, subject)
        for case in cases:
            _write(suite, case, f"{report['name']}.{label(subject)}")
    _count(root, [case for subject in subjects(report) for case in _cases(report, subject)])
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def _cases(report: Json, subject: str | None) -> Iterator[_Case]:
    """The checks of a variant, or of the folder (None), followed by the parity cases."""
    if subject is None and report["verdict"] != "passed" and not failed_checks(report):
        yield _Case("verdict", "verdict", (report["failure"] or "failed",))
    for check in report["checks"]:
        if check["variant"] == subject:
            notes = tuple(check["notes"])
            skipped = "; ".join(notes) if check["verdict"] == "skipped" else None
            reasons = (tuple(check["reasons"]) or ("failed",)) if check["exit_code"] else ()
            notes = () if skipped is not None else notes
            yield _Case(check_label(check), check["check"], reasons, skipped, notes, check["verdict"] == "not judged")
    parities: Json = report["variants"][subject]["parity"] if subject in report["variants"] else {}
    for folder, parity in parities.items():
        of = f" of {folder}" if len(parities) > 1 else ""
        for case in parity["cases"]:
            name = f"parity{of}: {case['case']}, {case['stage']}"
            failures = tuple(case_failures(case))
            skipped = "; ".join(failures) if case["verdict"] == "not judged" else None
            yield _Case(name, "parity", () if skipped else failures, skipped, (case_limits(case),))
        if texts := parity.get("texts"):
            notes = (texts_in_words(texts),)
            yield _Case(f"parity{of}: texts", "parity", tuple(texts["reasons"]), None, notes)


def _write_figures(suite: ElementTree.Element, report: Json, subject: str | None) -> None:
    """The measured figures of each file of a variant as properties; none of the folder as a whole."""
    files = [file for file in measured_files(report) if file.owner == subject and file.described is not None]
    properties = [
        (f"{file.folder} {column.title}", f"{cell.main} ({cell.brief})" if cell.brief else cell.main)
        for file in files
        for column in COLUMNS
        if (cell := column.cell(file)).main not in ("", NOTHING)
    ]
    element = ElementTree.SubElement(suite, "properties") if properties else suite
    for name, value in properties:
        ElementTree.SubElement(element, "property", name=name, value=clean(value))


def _count(element: ElementTree.Element, cases: list[_Case]) -> None:
    element.set("tests", str(len(cases)))
    element.set("failures", str(sum(bool(case.reasons) and not case.is_error for case in cases)))
    element.set("errors", str(sum(case.is_error for case in cases)))
    element.set("skipped", str(sum(case.skipped is not None for case in cases)))


def _write(suite: ElementTree.Element, case: _Case, owner: str) -> None:
    """Adds a testcase; the message of a failure or an error is its first reason, and its text lists all of them."""
    element = ElementTree.SubElement(suite, "testcase", name=clean(case.name), classname=clean(owner))
    if case.skipped is not None:
        ElementTree.SubElement(element, "skipped", message=clean(case.skipped))
    if case.reasons:
        tag = "error" if case.is_error else "failure"
        failure = ElementTree.SubElement(element, tag, message=clean(case.reasons[0]), type=case.kind)
        failure.text = clean("\n".join(case.reasons))
    if case.notes:
        ElementTree.SubElement(element, "system-out").text = clean("\n".join(case.notes))
