from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.corpora import task_texts
from support.editing import set_json

from seap_export.errors import ArtifactError
from seap_export.runtime import Router


def test_texts_that_were_never_seen_go_to_their_task(pristine: Path) -> None:
    router = Router(pristine / "router")
    for index, task in enumerate("ab"):
        probabilities = router.probabilities([router.token_ids(text) for text in task_texts(task, 50, seed=9)])
        assert (probabilities.shape, probabilities.dtype) == ((50, 2), np.float32)
        assert np.allclose(probabilities.sum(axis=1), 1.0)
        assert (probabilities.argmax(axis=1) == index).mean() > 0.9


def test_a_prompt_counts_alone_whatever_stands_beside_it(pristine: Path) -> None:
    router = Router(pristine / "router", threads=1)
    ids = [router.token_ids(text) for text in task_texts("a", 20)] + [[]]
    together = router.probabilities(ids)
    alone = np.concatenate([router.probabilities([row]) for row in ids])
    assert np.abs(together - alone).max() < 1e-6
    assert alone[-1].tolist() == [0.5, 0.5]


def test_prompts_are_cut(done: Path) -> None:
    set_json(done / "router" / "router.json", max_length=3)
    router = Router(done / "router")
    assert router.token_ids("the a cat dog mat") == Router(done / "router").token_ids("the a cat")
    assert len(router.token_ids("the a cat dog mat")) == 3


@pytest.mark.parametrize(
    ("name", "is_missing"), [("router.json", True), ("router.onnx", False), ("tokenizer.json", False)]
)
def test_damaged_files_are_refused_in_one_line(done: Path, name: str, is_missing: bool) -> None:
    path = done / "router" / name
    path.unlink() if is_missing else path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ArtifactError) as caught:
        Router(done / "router")
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_graph_of_other_classes_is_refused(done: Path) -> None:
    path = done / "router" / "router.json"
    values = json.loads(path.read_text())
    values["classes"].append("c")
    values["variants"]["0.2"]["c"] = "c-0.2"
    path.write_text(json.dumps(values))
    with pytest.raises(ArtifactError, match=r"router\.onnx: .*classes"):
        Router(done / "router")
