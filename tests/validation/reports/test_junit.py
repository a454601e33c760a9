from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

from validation.reports import junit_xml

Report = dict[str, Any]
Cases = dict[str, ElementTree.Element]


def _suites(report: Report) -> dict[str, Cases]:
    """The cases of each suite, the sums of which are right."""
    root = ElementTree.fromstring(junit_xml(report).encode("utf-8"))
    for element in (root, *root):
        for counted, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped",) * 2):
            assert int(element.attrib[counted]) == len(element.findall(f".//{tag}"))
    return {suite.attrib["name"]: {case.attrib["name"]: case for case in suite.iter("testcase")} for suite in root}


def test_failures_carry_every_reason(failing: Report) -> None:
    case = failing["variants"]["arithmetic-0.5"]["parity"]["onnx"]["cases"][7]
    case |= {"verdict": "failed", "limits": {"mean_kl": 0.002, "clear_top1_agreement": 0.99}}
    case["top1_agreement_margin"] = 0.9
    suites = _suites(failing)
    (failure,) = suites["the folder as a whole"]["integrity"]
    assert failure.attrib == {"message": "file 0 is missing", "type": "integrity"}
    assert (failure.text or "").splitlines() == [f"file {index} is missing" for index in range(7)]
    told = {name: case.findtext("failure") for name, case in suites["arithmetic-0.5"].items()}
    assert {name: reason for name, reason in told.items() if name.startswith("parity: ") and reason} == {
        "parity: prompt 1, decode": "max abs 0.412 > 0.001\ncache error 0.0899 > 0.001",
        "parity: prompt 2, decode": "NaN in the candidate's logits (2 tokens)\nNaN in the keys of layer 29",
        "parity: prompt 3, decode": "top-1 of clear choices 0.9 < 0.99",
    }
    assert told["parity"]
    assert told["quality"]
    within = "max abs 1.1e-4 ≤ 0.001, cache error 2.4e-5 ≤ 0.001"
    assert suites["arithmetic-0.5"]["parity: prompt 0, decode"].findtext("system-out") == within
    text, name = junit_xml(failing), 'a|b <script>alert("x")</script> `*_[x](y)'
    assert "<script>" not in text
    assert not any(ord(letter) < 32 and letter not in "\n\r\t" for letter in text)
    assert suites[name]["parity"].findtext("failure") == f"no session for {name}[31m\nsecond line"
    case = _suites(failing | {"checks": [], "variants": {}})["the folder as a whole"].popitem()[1]
    assert case.findtext("failure") == "file 0 is missing"  # a failed report never reads as passed


def test_what_could_not_be_judged_is_an_error_and_no_failure(failing: Report) -> None:
    check = failing["checks"][3]
    check |= {"verdict": "not judged", "exit_code": 6}
    failing["variants"]["arithmetic-0.5"]["parity"]["onnx"]["cases"][3]["verdict"] = "not judged"
    cases = _suites(failing)["arithmetic-0.5"]
    (error,) = cases["parity"]
    assert (error.tag, error.attrib["message"]) == ("error", check["reasons"][0])
    (skipped,) = cases["parity: prompt 1, decode"].iter("skipped")
    assert skipped.attrib["message"].endswith("cache error 0.0899 > 0.001; too few tokens to judge the stage alone")
