"""What each tool is asked for, what is missing of it, and what is kept."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from benchmarks.frontier.makers import INSTALL, Kitchen
from benchmarks.peers.artifacts import Written

from seap_export.errors import ArtifactError

PYTHONS = {name: Path("/envs") / name / "python" for name in INSTALL}


@pytest.fixture
def kitchen(dense: Path, tmp_path: Path) -> Kitchen:
    return Kitchen(dense, [[3, 1, 4], [1, 5]], tmp_path, PYTHONS)


def test_every_tool_and_its_steps(kitchen: Kitchen) -> None:
    peers = {peer.name: peer for peer in kitchen.peers()}
    assert list(peers) == [
        *(f"llama.cpp {kind}" for kind in ("Q8_0", "Q5_K_M", "Q4_K_M", "IQ4_NL", "IQ4_NL pure", "Q3_K_M", "Q2_K")),
        *("NNCF INT4_ASYM, ratio 1", "NNCF INT4_ASYM, ratio 1 all_layers", "NNCF INT4_ASYM, ratio 0.8"),
        *(f"GenAI builder int4, {how}" for how in ("default", "k_quant", "k_quant_mixed")),
        *(f"AutoRound, {bits} bits" for bits in (4, 3, 2)),
    ]
    for peer in peers.values():
        *before, last = peer.steps
        assert last.command[0] == str(PYTHONS[str(peer.environment)])
        assert all(step.command[0] == sys.executable for step in before)
        for step in peer.steps:
            assert any(str(step.folder) in word for word in step.command)
            assert not any(word.startswith("OUT") for word in step.command)
    assert peers["llama.cpp IQ4_NL pure"].steps[-1].command[-1] == "pure"
    whole, importance, quantised = peers["llama.cpp Q4_K_M"].steps
    assert str(whole.folder / "model.gguf") in quantised.command
    assert str(importance.folder / "importance.gguf") in quantised.command
    assert importance.command[-2:] == ("--architecture", "llama")
    assert peers["AutoRound, 3 bits"].steps[-1].command[-1] == "3"


def test_what_is_made_from_other_texts_lies_elsewhere(kitchen: Kitchen, dense: Path, tmp_path: Path) -> None:
    other = Kitchen(dense, [[3, 1, 4]], tmp_path, PYTHONS)
    assert json.loads(kitchen.texts_file.read_text("utf-8")) == [[3, 1, 4], [1, 5]]
    folders = [{peer.name: peer.folder for peer in each.peers()} for each in (kitchen, other)]
    differ = {name for name, folder in folders[0].items() if folder != folders[1][name]}
    assert differ == {name for name in folders[0] if not name.startswith("GenAI")}  # its builder reads no texts


def test_what_is_missing_is_said_with_its_remedy(kitchen: Kitchen) -> None:
    for peer in kitchen.peers():
        assert f"give --python {peer.environment}=ENV/bin/python" in (peer.lack({}) or "")
        assert "--python" not in (peer.lack(PYTHONS) or "")  # perhaps its runtime is missing here


def test_what_is_there_needs_no_tool(kitchen: Kitchen, dense: Path, tmp_path: Path) -> None:
    *_, peer = kitchen.peers()
    assert peer.lack({}) is not None
    peer.steps[-1].record.parent.mkdir()
    written = Written(str(dense.resolve()), 1.0, None, 0, is_reused=False)
    peer.steps[-1].record.write_text(json.dumps(asdict(written)), "utf-8")
    assert peer.lack({}) is None
    peer.make(dense)
    with pytest.raises(ArtifactError, match="was made from"):
        peer.make(tmp_path)


def test_the_source_is_a_link(kitchen: Kitchen, tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF")
    for _ in range(2):
        peer = kitchen.source(file)
        assert (peer.folder / "model.gguf").read_bytes() == b"GGUF"
        peer.make(tmp_path)  # there is nothing to make
