"""Reports as a page, in a real browser too, a summary, JUnit cases and JSON, and their numbers in words."""

from __future__ import annotations

import html
import json
import math
import re
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
from jinja2 import UndefinedError
from support.processes.browser import browser_command

from validation.reports import html_page, job_summary, junit_xml, reading, schema
from validation.reports.numbers import figure, megabytes, percent, with_error
from validation.reports.speedups import speedup_in_words, speedups

Report = dict[str, Any]
_VOID = {"meta", "link"}


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def attributes(self, name: str) -> list[str | None]:
        return [attributes[name] for _, attributes in self.tags if name in attributes]


@pytest.mark.parametrize(
    ("sample", "words", "status", "summary"),
    [
        ("passing", "demo-output", "✓ Files verified; quality: within its limit; speed: within its", "✅ demo"),
        ("failing", "✗ Failed: out a|b <script>", "✗ Files failed; quality: outside its limit; speed: outside its",
         "❌ Failed: out a&#124;b "),
    ],
)  # fmt: skip
def test_a_page_needs_nothing_else_and_begins_with_the_verdict(
    sample: str, words: str, status: str, summary: str, samples: dict[str, Report]
) -> None:
    page = Page(html_page(samples[sample]))
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "img", "iframe", "object", "embed", "video", "audio", "base", "form", "image", "use"}
    assert page.attributes("src") == []
    links, targets = [link or "" for link in page.attributes("href")], page.attributes("id")
    assert all(link.startswith(("#", "data:,")) for link in links)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert len(set(targets)) == len(targets)
    assert set() < {link[1:] for link in links if link.startswith("#")} <= set(targets)
    assert next(tag for tag, _ in page.tags if tag in ("header", "section")) == "header"
    assert page.text.count(words) == 2  # in the title, too
    assert page.text.index(words) < page.text.index(status)
    assert job_summary(samples[sample]).startswith(f"## {summary}")


STATUS: dict[str, list[tuple[str, str]]] = {
    "Files verified; quality: no limit set; speed: no limit set": [("integrity", "passed")],
    "Files not checked; quality: within its limit; speed: no limit set": [("quality", "passed")],
    "Files failed; quality: no limit set; speed: no limit set": [("parity", "failed"), ("integrity", "passed")],
    "Files not checked; quality: outside its limit": [("quality", "failed"), ("quality", "passed")],
}


@pytest.mark.parametrize("words", STATUS)
def test_what_was_verified_and_which_limits_there_were(words: str) -> None:
    report = {"checks": [{"check": name, "verdict": verdict} for name, verdict in STATUS[words]]}
    assert reading.status(report).startswith(words)


def test_a_variant_failed_if_one_of_its_checks_did() -> None:
    verdicts = [("a", "not judged"), ("a", "failed"), ("b", "skipped"), ("b", "passed"), (None, "not judged")]
    verdicts += [(None, "passed")]
    report = {"checks": [{"variant": variant, "verdict": verdict} for variant, verdict in verdicts]}
    told = {"a": "failed", "b": "passed", "c": "skipped", None: "not judged"}
    assert {variant: reading.verdict_of(report, variant) for variant in told} == told


def test_names_from_outside_are_text(failing: Report) -> None:
    summary = job_summary(failing)
    assert "<script" not in summary
    assert "\\`\\*\\_\\[x\\](y)" in summary
    tables = [table.splitlines() for table in re.findall(r"(?:^\|.*\n)+", summary, re.MULTILINE)]
    assert [len({line.count(" | ") for line in table}) for table in tables] == [1] * 4
    assert not any(ord(letter) < 32 and letter != "\n" for letter in summary)
    name = "<img src=x onerror=alert(1)>\x00\ud800"
    tap = {"name": name, "layer": None, "sublayer": name, "error": 1.0}
    failing["variants"]["arithmetic-0.5"]["bisect"] |= {"case": name, "first": tap, "taps": [tap]}
    failing["source"]["name"] = failing["failure"] = name
    failing["tasks"][name], failing["files"][name] = {"seed": name, name: [name]}, {"bytes": 1, "sha256": name}
    failing["versions"][name] = failing["machine"]["processor"] = name
    failing["checks"][1]["notes"] = [name]
    text = html_page(failing)
    text.encode("utf-8")
    assert "\x00" not in text
    page = Page(text)
    assert not {tag for tag, _ in page.tags} & {"img", "script"}
    assert page.text.count("<img src=x onerror=alert(1)>") > 15


def test_what_a_report_lacks_is_no_empty_text(passing: Report) -> None:
    empty = {"source": None, "checks": [], "variants": {}, "tasks": {}, "files": {}, "versions": {}}
    assert "0 variants. Nothing was checked." in Page(html_page(passing | empty)).text
    del passing["variants"]["arithmetic-0.2"]["layers"][0]["kept"]
    with pytest.raises((KeyError, UndefinedError), match="kept"):
        html_page(passing)


def test_a_figure_stands_beside_the_limit_of_its_own_case(passing: Report) -> None:
    """Noise widens the limits of some cases; the largest figure may be further from its limit than another is."""
    parity = passing["variants"]["general-0.5"]["parity"]["onnx"]
    for case, kl, limit in zip(parity["cases"][-3:], (0.003, 0.024, 0.009), (0.002, 0.035, 0.01), strict=True):
        case |= {"limits": {"mean_kl": limit}, "mean_kl_nats": kl, "verdict": "passed" if kl < limit else "not judged"}
    text = Page(html_page(passing)).text
    assert "cache error 2.4e-5 ≤ 0.001 (prompt 0, prefill), mean KL 0.003 > 0.002 (batch of 3, prefill)." in text
    assert "? not judged mean KL 0.003 > 0.002 too few tokens to judge the stage alone" in text
    parity["cases"].pop(-3)
    assert "mean KL 0.009 ≤ 0.01 (prompt 0, as it is, prefill)." in Page(html_page(passing)).text


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


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(schema())
    return jsonschema.Draft202012Validator(schema())


def test_samples_are_reports(samples: dict[str, Report], validator: jsonschema.Draft202012Validator) -> None:
    for sample in samples.values():
        validator.validate(sample)


A = "arithmetic-0.2"
WRONG: dict[str, Callable[[Report], object]] = {
    "key too many": lambda r: r.update(extra=1),
    "no verdict": lambda r: r.update(verdict="skipped"),
    "passed with a failed check": lambda r: r["checks"][0].update(verdict="failed", exit_code=7, reasons=["broken"]),
    "failed without a failure": lambda r: r.update(verdict="failed", exit_code=3, failure=""),
    "failed with exit code 0": lambda r: r.update(verdict="failed", exit_code=0, failure="something"),
    "passed check with a reason": lambda r: r["checks"][0].update(reasons=["why"]),
    "skipped check without a note": lambda r: r["checks"][-1].update(notes=[]),
    "variant without speed": lambda r: r["variants"][A].pop("speed"),
    "more kept than there was": lambda r: r["variants"][A]["layers"][0].update(kept=1.5),
    "case without a stage": lambda r: r["variants"][A]["parity"]["onnx"]["cases"][0].pop("stage"),
}


@pytest.mark.parametrize("spoil", WRONG.values(), ids=WRONG.keys())
def test_wrong_reports_are_refused(
    spoil: Callable[[Report], object], passing: Report, validator: jsonschema.Draft202012Validator
) -> None:
    spoil(passing)
    assert not validator.is_valid(passing)


WORDS: dict[Callable[..., str], dict[tuple[float | None, ...], str]] = {
    figure: {
        **{(None,): "–", (math.inf,): "not finite", (0.0,): "0", (0.012345,): "0.0123", (9999.0,): "10000"},
        **{(61350.5,): "6.1e4", (1e-5,): "1e-5", (-0.5,): "-0.5"},
    },
    percent: {(0.2,): "20%", (0.2013,): "20.1%", (1.0,): "100%", (0.9996,): ">99.9%", (0,): "0%"},
    megabytes: {(812,): "812 B", (812_345,): "812 kB", (9_996_000,): "10.0 MB", (1_340_000_000,): "1.34 GB"},
    with_error: {
        **{(0.0938, 0.0062): "0.094 ± 0.006", (0.0938, 0.0014): "0.0938 ± 0.0014", (12.3, 3.2): "12 ± 3"},
        **{(2.2e-11, 1.4e-12): "2.2e-11 ± 1.4e-12", (0.0938, None): "0.0938"},
    },
    speedup_in_words: {
        **{(1.24, 1.001, 1.5): "1.24×", (1.24, None, None): "1.24×"},
        **dict.fromkeys(((1.24, 1.0, 1.5), (0.97, 0.93, 1.0)), "no speed-up"),  # 1 itself is contained
        **dict.fromkeys(((0.9, 0.88, 0.93), (0.9, None, None)), "0.90×, slower"),
    },
}


@pytest.mark.parametrize("words", WORDS, ids=lambda words: words.__name__)
def test_in_words(words: Callable[..., str]) -> None:
    assert {values: words(*values) for values in WORDS[words]} == WORDS[words]


def test_judged_and_recorded_speedups_are_read_alike(passing: Report) -> None:
    recorded_speed, judged_speed = (passing["variants"][name]["speed"] for name in ("everyday-0.35", "arithmetic-0.2"))
    (recorded,) = speedups(recorded_speed, "decode")
    assert (recorded.value, recorded.low, recorded.high, recorded.share) == (1.25, 1.23, 1.27, 0.96)
    verdicts = [one for one in judged_speed["verdicts"] if one["figure"] == "prefill_speedup"]
    verdicts[1] |= {"found": 1.3, "low": 1.25, "high": 1.35}
    judged = speedups(judged_speed, "prefill")
    assert [(one.batch, one.depth) for one in judged] == [(1, 128), (1, 512), (4, 128)]
    assert [figure for one in judged for figure in (one.value, one.low, one.high)] == pytest.approx(
        [1.18, 1.14, 1.23, 1.3, 1.25, 1.35, 1.18, 1.02, 1.38]
    )
    assert speedups(None, "decode") == []
    judged_speed["verdicts"], judged_speed["dense"] = [], judged_speed["dense"][1:]
    assert [(one.value, one.low) for one in speedups(judged_speed, "decode")] == [(pytest.approx(1.24), None)] * 2


MEASURE = Path(__file__).with_name("measure.js")
WIDTHS, HEIGHT = (390, 1200, 1600), 844
SCHEMES = ("light", "dark")
CONTRAST, LEAST_SIZE = 4.5, 11.0  # WCAG 2 AA
#: A page that breaks every rule.
WRONG_PAGE = (
    '<!doctype html><body style="margin:0;background:#fff"><header id="verdict"><h1>x</h1></header>'
    '<p style="width:500px">wide</p><p style="color:#aaa;font-size:8px">pale</p>'
    "</body>"
)


def _measure(page: str, folder: Path) -> dict[str, dict[str, Any]]:
    """Shows the page in a frame for each width and scheme; what the frames look like, by `<width>-<scheme>`."""
    frames = "".join(
        f'<iframe id="{width}-{scheme}" style="width:{width}px;height:{HEIGHT}px;border:0;color-scheme:{scheme}" '
        f'srcdoc="{html.escape(page)}"></iframe>'
        for width in WIDTHS
        for scheme in SCHEMES
    )
    script = f"<script>{MEASURE.read_text('utf-8')}</script>"
    wrapper = folder / "wrapper.html"
    wrapper.write_text(f'<!doctype html><meta charset="utf-8">{script}{frames}<pre id="measured"></pre>', "utf-8")
    command = browser_command(folder / "profile", "--dump-dom", wrapper.as_uri())
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    match = re.search(r'<pre id="measured">(\{.*\})</pre>', done.stdout, re.DOTALL)
    assert match is not None, f"the browser measured nothing: {done.stderr[-2000:]}"
    measured: dict[str, dict[str, Any]] = json.loads(html.unescape(match[1]))
    return measured


def _unreadable(page: dict[str, Any]) -> list[str]:
    texts = page["texts"]
    return [one["words"] for one in texts if one["contrast"] < CONTRAST or one["size"] < LEAST_SIZE]


@pytest.mark.needs("browser")
@pytest.mark.parametrize("sample", ["passing", "failing"])
def test_pages(sample: str, samples: dict[str, Any], tmp_path: Path) -> None:
    """The verdict is seen first, all can be read, and nothing is loaded."""
    frames = _measure(html_page(samples[sample]), tmp_path)
    assert {name: (page["width"], page["dark"]) for name, page in frames.items()} == {
        f"{width}-{scheme}": (width, scheme == "dark") for width in WIDTHS for scheme in SCHEMES
    }
    for page in frames.values():
        assert 0 < page["verdict"] < HEIGHT / 2
        assert page["scrollWidth"] <= page["width"]
        assert page["beyond"] == page["requests"] == _unreadable(page) == []
        assert len(page["texts"]) > 500


@pytest.mark.needs("browser")
def test_measuring_finds_what_is_wrong(tmp_path: Path) -> None:
    faults = _measure(WRONG_PAGE, tmp_path)["390-light"]
    assert faults["scrollWidth"] == 500
    assert "P wide" in faults["beyond"]
    assert _unreadable(faults) == ["pale"]
