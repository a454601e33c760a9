"""Quality and speed of an export without the folder `onnx`: every format is compared, and the first is timed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import jsonschema
import pytest
from support.estimates import without_texts
from support.exports import Outcome, Run
from support.formats.fake_format import FakeRunner, install_fake_format
from support.product import GENERAL_TEXT

from seap_export.common.json_file import read_json
from validation.reports import schema

EXPORT = ("export", "m", "--task", "a=a.jsonl", "--ratio", "0.2", "--out", "out")
MEASURED = ("--quality", "--speed")
NAME = "fake in faked"


@pytest.fixture(autouse=True, scope="module")
def _table() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        install_fake_format(patch)
        yield


@pytest.fixture(scope="module")
def once(place: Path, done_in: Callable[..., Outcome], _table: None) -> Path:
    """An export to the formats fake and fake:f16 in `out`; not to be changed."""
    done_in(place, *EXPORT, *MEASURED, "--format", "fake", "--format", "fake:f16")
    assert FakeRunner.opened == 0
    return place


@pytest.fixture
def out(home: Path) -> Path:
    return home / "out"


def test_every_format_is_compared_and_the_first_is_timed(run: Run, out: Path) -> None:
    recorded, other = (read_json(out / "a-0.2" / f"quality-{folder}.json") for folder in ("fake", "fake-f16"))
    assert (recorded["folder"], recorded["runtime"], list(recorded["divergence"])) == ("fake", "faked", [NAME])
    values = json.loads(
        run("evaluate", "out/a-0.2", "--dense", "m", "--runtime", "torch", "--runtime", "faked", "--json").out
    )
    divergence, evaluated = (without_texts(report["divergence"][NAME]) for report in (recorded, values))
    assert divergence == pytest.approx(evaluated, rel=1e-6)
    assert values["divergence"]["hf"]["mean_kl_nats"] == pytest.approx(
        recorded["divergence"][NAME]["mean_kl_nats"], rel=1e-3
    )
    assert list(recorded["elsewhere"]) == [NAME]
    assert list(recorded["elsewhere"][NAME]) == ["a", GENERAL_TEXT]
    assert set(recorded["sample"]) == {"prompt", "dense", "variant"}
    figures = read_json(out / "manifest.json")["variants"]["a-0.2"]["quality"]
    assert (figures["folder"], figures["runtime"]) == ("fake", "faked")
    assert figures["mean_kl_nats"] == recorded["divergence"][NAME]["mean_kl_nats"]
    assert list(other["divergence"]) == [NAME.replace("fake", "fake-f16", 1)]
    (rounded,) = other["divergence"].values()
    assert rounded["mean_kl_nats"] != figures["mean_kl_nats"]
    assert figures["others"]["fake-f16"].items() <= (rounded | other).items()
    reported = read_json(out / "validation.json")["variants"]["a-0.2"]["quality"]
    assert reported["divergence"] == recorded["divergence"] | other["divergence"]
    timed = read_json(out / "performance.json")["speed"]["a-0.2"]
    assert timed["fake"] == read_json(out / "manifest.json")["steps"]["a-0.2/fake"]
    assert (timed["figures"]["folder"], timed["figures"]["runtime"]) == ("fake", "faked")


def test_figures_stay_while_what_they_belong_to_does(run: Run, out: Path) -> None:
    """A format that is added measures nothing if it is told so; a format that is replaced loses its figures."""
    assert run(*EXPORT, "--format", "onnx").code == 0
    entry = read_json(out / "manifest.json")["variants"]["a-0.2"]
    assert entry["quality"]["folder"] == "fake"
    assert entry["precision"] == {"onnx": "int8", "fake": "f32", "fake-f16": "f16"}
    assert list(entry["bytes"]) == ["hf", *entry["parity"]] == ["hf", "onnx", "fake", "fake-f16"]
    assert run("validate", "out", "-q").code == 0
    formats = ("--format", "fake", "--format", "fake:f16", "--format", "onnx")
    assert run(*EXPORT, *formats, "--set", "seed=1", "--force").code == 0
    assert not list((out / "a-0.2").glob("quality*"))


def test_a_variant_that_fails_parity_is_not_measured(run: Run, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prefill = FakeRunner.prefill
    monkeypatch.setattr(FakeRunner, "prefill", lambda self, *words: prefill(self, *words) * 0.5)
    assert run(*EXPORT, "--format", "fake", *MEASURED).code == 3
    assert not list((work / "out" / "a-0.2").glob("quality*"))


def test_the_gate_takes_what_there_is(run: Run, out: Path) -> None:
    """Every folder in its runtime, and the model folder where there is no other."""
    words = ("validate", "out/a-0.2", "--check", "quality", "--dense", "m")
    report = json.loads(run(*words, "--max-kl", "99", "--json", "-q").out)
    jsonschema.validate(report, schema())
    divergence = report["variants"]["a-0.2"]["quality"]["divergence"]
    names = [NAME, NAME.replace("fake", "fake-f16", 1)]
    assert list(divergence) == names
    assert [(check["check"], check["subject"]) for check in report["checks"]] == [("quality", name) for name in names]
    run(*words, "--max-kl", "1e-9", "-q").refused(4, NAME)

    # a file beside the first, in fewer bits, fails alone
    kl = sorted(figures["mean_kl_nats"] for figures in divergence.values())
    assert kl[0] < kl[1]
    files = ("--junit", "out.xml", "--out", "report.json")
    assert run(*words, "--max-kl", str(sum(kl) / 2), *files, "-q").code == 4
    verdicts = {check["subject"]: check["verdict"] for check in read_json(Path("report.json"))["checks"]}
    worst = max(divergence, key=lambda name: divergence[name]["mean_kl_nats"])
    assert verdicts == {name: "failed" if name == worst else "passed" for name in names}
    assert [name in Path("out.xml").read_text("utf-8") for name in names] == [True, True]

    for name in ("fake", "fake-f16"):
        shutil.rmtree(out / "a-0.2" / name)
    report = json.loads(run(*words, "--max-kl", "99", "--json", "-q").out)
    assert list(report["variants"]["a-0.2"]["quality"]["divergence"]) == ["hf"]
