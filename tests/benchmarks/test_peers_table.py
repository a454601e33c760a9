"""The whole command on artifacts that are there already, all of them ours; other exporters are not started."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from benchmarks import peers_table
from benchmarks.peers.artifacts import Environments, all_artifacts
from benchmarks.peers.loops import all_loops
from click.testing import CliRunner


@pytest.fixture
def work(dense: Path, convert: Callable[..., Path], tmp_path: Path) -> Path:
    """A folder with every artifact, none of which has to be written."""
    folder = tmp_path / "work"
    here = Path(sys.executable)
    for artifact in all_artifacts(dense, folder, Environments(here, here)):
        convert(dense, artifact.folder.parent)
    return folder


def test_tables_and_report(dense: Path, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        peers_table,
        "all_loops",
        lambda *session: [loop for loop in all_loops(*session) if loop.name.endswith("runner")],
    )
    options = ["--genai-python", sys.executable, "--work", str(work)]
    options += ["--prompt-tokens", "12", "--steps", "3", "--rounds", "2", "--threads", "1"]
    json_file = tmp_path / "peers.json"
    done = CliRunner().invoke(
        peers_table.peers_table, [str(dense), *options, "--json", str(json_file)], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    titles = [line for line in done.stdout.splitlines() if line.startswith("##")]
    forms = ("fp32", "int8", "int4")
    assert titles == [
        "## Writing",
        *(f"## Sessions, {form}" for form in forms),
        *(f"## Generation loops, {form}" for form in forms),
    ]
    assert "| ours-int4 | 1.00 s | 2 MB | 3.0 MB | in an earlier run |" in done.stdout

    report = json.loads(json_file.read_text("utf-8"))
    assert report["schema"] == "seap-export/peers/1"
    assert report["setting"]["rounds"] == 2
    assert report["setting"]["versions"]["main"]["torch"]
    assert len(report["artifacts"]) == 13
    assert [len(report["sessions"][form]) for form in forms] == [5, 4, 4]
    session = report["sessions"]["fp32"]["ours-fp32"]
    assert session["same_tokens"] == 1
    assert (len(session["prefills"]), len(session["steps"])) == (2, 6)
    assert session["step_s"] > 0
    (loop,) = report["loops"]["fp32"].values()
    assert loop["tokens"] == report["tokens"]


def test_without_work_the_folder_is_gone_afterwards() -> None:
    with peers_table._folder(None) as folder:
        assert folder.is_dir()
    assert not folder.exists()
