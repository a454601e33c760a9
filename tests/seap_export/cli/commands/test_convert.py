"""`convert --format`: any format is refused, reported, interrupted and replaced alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.editing import set_json
from support.exports import Run
from support.formats.fake_format import FakeFormat, install_fake_format

from seap_export.common.checksums import SUMS

CONVERT = ("convert", "m", "--format", "fake", "--out", "new")


@pytest.fixture(autouse=True)
def model(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_fake_format(monkeypatch)


def test_it_says_what_it_writes_and_replaces_only_a_folder_of_the_format(run: Run, work: Path) -> None:
    outcome = run("convert", "m", "--format", "fake:f16", "--out", "new")
    assert outcome.code == 0
    assert outcome.err == "Warning: fake is slow in f16\nwriting Fake\n"
    assert outcome.out.startswith("new: ")
    assert {path.name for path in (work / "new").iterdir()} == {"model.fake", "about.json", "config.json", SUMS}
    size = sum(path.stat().st_size for path in (work / "new").iterdir() if path.name != SUMS)
    run("convert", "m", "--format", "fake", "--out", "new").refused(2, "--force")
    run("convert", "m", "--out", "new", "--force", "-q").refused(2, "not empty")
    assert json.loads(run("convert", "m", "--format", "fake:f16", "--out", "new", "--force", "--json").out) == {
        "folder": "new",
        "bytes": size,
    }


def test_a_folder_that_is_no_model_is_refused(run: Run, work: Path) -> None:
    (work / "m.gguf").touch()
    run("convert", "m.gguf", "--out", "new", "-q").refused(8, "is a file", "export m.gguf", "--ratio 0")


def test_a_model_that_the_format_does_not_take(run: Run, work: Path) -> None:
    set_json(work / "m" / "config.json", eos_token_id=None)
    (work / "m" / "generation_config.json").unlink(missing_ok=True)
    run(*CONVERT, "-q").refused(8, "EOS")
    assert not (work / "new").exists()
    (work / "m" / "generation_config.json").write_text('{"eos_token_id": 2}')
    assert run(*CONVERT, "-q").code == 0  # it is named there, too


def test_an_interrupted_run_leaves_nothing(run: Run, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = FakeFormat.write

    def interrupted(self: FakeFormat, model: Path, out: Path, on_layer: Callable[[int], None]) -> None:
        write(self, model, out, on_layer)
        raise KeyboardInterrupt

    monkeypatch.setattr(FakeFormat, "write", interrupted)
    before = sorted(work.iterdir())
    assert run(*CONVERT, "-q").code == 130
    assert sorted(work.iterdir()) == before
