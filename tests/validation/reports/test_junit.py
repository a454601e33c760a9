from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

from validation.reports import junit_xml

Report = dict[str, Any]


def _suites(report: Report) -> dict[str, ElementTree.Element]:
    root = ElementTree.fromstring(junit_xml(report).encode("utf-8"))
    assert root.tag == "testsuites"
    return {suite.attrib["name"]: suite for suite in root}


def _cases(suite: ElementTree.Element) -> dict[str, ElementTree.Element]:
    return {case.attrib["name"]: case for case in suite.iter("testcase")}


def test_failures_carry_every_reason(failing: Report) -> None:
    suites = _suites(failing)
    (failure,) = _cases(suites["the folder as a whole"])["integrity"]
    assert (failure.tag, failure.attrib["message"], failure.attrib["type"]) == (
        "failure",
        "file 0 is missing",
        "integrity",
    )
    assert (failure.text or "").splitlines() == [f"file {index} is missing" for index in range(7)]
    failed = [name for name, case in _cases(suites["arithmetic-0.5"]).items() if case.find("failure") is not None]
    stages = ["parity: prompt 1, decode", "parity: prompt 2, decode"]
    assert failed == ["parity", "quality", "speed", *stages]


def test_parity_stages_say_what_is_beyond_its_limit(failing: Report) -> None:
    case = failing["variants"]["arithmetic-0.5"]["parity"]["onnx"]["cases"][7]
    case |= {"verdict": "failed", "limits": {"mean_kl": 0.002, "clear_top1_agreement": 0.99}}
    case["top1_agreement_margin"] = 0.9
    cases = _cases(_suites(failing)["arithmetic-0.5"])
    beyond = "max abs 0.412 > 0.001\ncache error 0.0899 > 0.001"
    assert cases["parity: prompt 1, decode"].findtext("failure") == beyond
    nan = "NaN in the candidate's logits (2 tokens)\nNaN in the keys of layer 29"
    assert cases["parity: prompt 2, decode"].findtext("failure") == nan
    assert cases["parity: prompt 3, decode"].findtext("failure") == "top-1 of clear choices 0.9 < 0.99"
    within = "max abs 1.1e-4 ≤ 0.001, cache error 2.4e-5 ≤ 0.001"
    assert cases["parity: prompt 0, decode"].findtext("system-out") == within


def test_what_could_not_be_judged_is_an_error_and_no_failure(failing: Report) -> None:
    check = failing["checks"][3]
    check |= {"verdict": "not judged", "exit_code": 6}
    failing["variants"]["arithmetic-0.5"]["parity"]["onnx"]["cases"][3]["verdict"] = "not judged"
    cases = _cases(_suites(failing)["arithmetic-0.5"])
    (error,) = cases["parity"]
    assert (error.tag, error.attrib["message"]) == ("error", check["reasons"][0])
    skipped = cases["parity: prompt 1, decode"].find("skipped")
    assert skipped is not None
    assert skipped.attrib["message"].endswith("cache error 0.0899 > 0.001; too few tokens to judge the stage alone")
    _assert_counts(failing, failures=7)


def _assert_counts(failing: Report, failures: int) -> None:
    root = ElementTree.fromstring(junit_xml(failing).encode("utf-8"))
    for element in (root, *root):
        counted = {
            "tests": len(element.findall(".//testcase")),
            "failures": len(element.findall(".//failure")),
            "errors": len(element.findall(".//error")),
            "skipped": len(element.findall(".//skipped")),
        }
        assert {key: int(element.attrib[key]) for key in counted} == counted
    assert int(root.attrib["failures"]) == failures


def test_names_are_escaped_and_control_characters_removed(failing: Report) -> None:
    text = junit_xml(failing)
    assert "<script>" not in text
    assert not any(ord(letter) < 32 and letter not in "\n\r\t" for letter in text)
    name = 'a|b <script>alert("x")</script> `*_[x](y)'
    (failure,) = _cases(_suites(failing)[name])["parity"]
    assert failure.text == f"no session for {name}[31m\nsecond line"


def test_failed_report_never_reads_as_passed(failing: Report) -> None:
    failing["checks"] = []
    failing["variants"] = {}
    (case,) = _suites(failing)["the folder as a whole"]
    assert case.findtext("failure") == "file 0 is missing"
