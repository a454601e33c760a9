"""Each exporter's command, what is measured of it, and what is used again."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.peers.artifacts import Artifact, Environments, all_artifacts, write
from benchmarks.peers.contest import choose_passage, compare

from seap_export.errors import ArtifactError

PEERS = Environments(Path(sys.executable), Path("/genai"))


def _by_name(dense: Path, work: Path) -> dict[str, Artifact]:
    return {artifact.name: artifact for artifact in all_artifacts(dense, work, PEERS)}


def test_every_exporter_and_precision(tmp_path: Path) -> None:
    artifacts = all_artifacts(Path("/model"), tmp_path, PEERS)
    assert [artifact.name for artifact in artifacts] == [
        *("genai-fp32", "genai-fp32-last", "ours-fp32", "ours-fp32-last", "ours-fp32-standard"),
        *("genai-int8", "genai-int8-last", "ours-int8", "ours-int8-last"),
        *("genai-int4", "genai-int4-last", "ours-int4", "ours-int4-last"),
    ]
    for artifact in artifacts:
        assert str(artifact.folder) in artifact.command
        assert "OUT" not in artifact.command
        assert artifact.is_ours == ("convert" in artifact.command)
        assert artifact.command[0] == (sys.executable if artifact.is_ours else "/genai")


@pytest.mark.release
def test_our_writer(dense: Path, graphs: dict[str, Path], tmp_path: Path) -> None:
    artifact = _by_name(dense, tmp_path)["ours-fp32-last"]
    written = write(artifact, dense)
    assert not written.is_reused
    assert written.wall_s > 0
    assert (written.peak_bytes or 0) > 50e6  # of the writer: the process that starts it is far smaller
    assert written.onnx_bytes == sum(path.stat().st_size for path in artifact.folder.glob("*.onnx*"))
    assert write(artifact, dense) == replace(written, is_reused=True)

    passage = choose_passage(graphs["ours"], 1, vocabulary=96, prompt_tokens=8, steps=2)
    compare({"new": artifact.graph}, graphs["ours"], passage, threads=1, rounds=1, is_exact=True)


def test_a_writer_that_fails_leaves_no_record(tmp_path: Path) -> None:
    artifact = Artifact("bad", "fp32", tmp_path / "bad" / "onnx", (sys.executable, "-c", "raise SystemExit(3)"))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="ended with exit code 3"):
            write(artifact, tmp_path)
    assert not (tmp_path / "bad" / "written.json").exists()


def test_what_was_made_from_another_model_is_refused(dense: Path, tmp_path: Path) -> None:
    artifact = _by_name(dense, tmp_path)["ours-fp32"]
    artifact.folder.parent.mkdir()
    (artifact.folder.parent / "written.json").write_text(json.dumps({"model": "/another"}), "utf-8")
    with pytest.raises(ArtifactError, match="was made from /another; give another folder as --work"):
        write(artifact, dense)
