"""A finished export stays as it is, byte for byte, whatever it is asked to be replaced with."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from robustness.commands import ALL, tree
from support.editing import edit_weights, set_json
from support.exports import Run


def last_weight_is_none(work: Path) -> None:
    edit_weights(
        work / "m", lambda tensors: tensors["model.layers.2.mlp.down_proj.weight"][-1, -1].fill_(float("nan"))
    )


HARM: dict[str, Callable[[Path], object]] = {
    "a pickle": lambda work: (work / "m" / "model.safetensors").write_bytes(pickle.dumps({})),
    "a weight that is no number": last_weight_is_none,
    "a config of another family": lambda work: set_json(work / "m" / "config.json", model_type="evil"),
    "a tokenizer that cannot encode": lambda work: set_json(
        work / "m" / "tokenizer.json", model={"type": "WordLevel", "unk_token": "?", "vocab": {"the": 4}}
    ),
    "a tokenizer of other tokens": lambda work: set_json(
        work / "m" / "tokenizer.json", model={"type": "WordLevel", "unk_token": "?", "vocab": {"?": 96}}
    ),
    "a corpus that ends badly": lambda work: (work / "b.jsonl").open("ab").write(b'{"text": '),
    "a corpus of one text": lambda work: (work / "b.jsonl").write_bytes(b'{"text": "the"}\n'),
}


@pytest.mark.parametrize("name", HARM)
def test_a_finished_export_survives(run: Run, done: Path, work: Path, name: str) -> None:
    HARM[name](work)
    before = tree(done)
    outcome = run(*ALL)
    # a model that is another one by its hash alone is refused before it is read
    outcome.refused(2 if outcome.code == 2 else 8)
    assert tree(done) == before
    run(*ALL, "--force").refused(8)
    assert tree(done) == before
