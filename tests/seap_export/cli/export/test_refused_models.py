"""A model that cannot be computed as its own class does is refused in one line, and nothing is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.editing import set_json
from support.exports import Run, tree
from support.models import write_micro_model
from support.stand_ins.families import WRONG_FAMILIES, describe_gemma3
from support.variations import VARIATIONS

from seap_export.model.families import family_of_model_type


def refused(run: Run, folder: Path, model: str, *keywords: str) -> None:
    """Runs an export that must end with one line and leave no file."""
    before = tree(folder)
    outcome = run("export", model, "--task", "a=a.jsonl", "--ratio", "0.2", "--out", "out", "--quiet")
    outcome.refused(8, *keywords)
    assert tree(folder) == before
    assert not (folder / "out").exists()


@pytest.mark.parametrize("left_out", ["activation", "window", "local rotation", "attention scale"])
def test_a_description_that_leaves_something_out(
    run: Run, work: Path, monkeypatch: pytest.MonkeyPatch, left_out: str
) -> None:
    write_micro_model(work / "gemma", **VARIATIONS["gemma3-all"])
    describe_gemma3(monkeypatch, **WRONG_FAMILIES[left_out](family_of_model_type("gemma3_text")))
    layer = "layer 1" if left_out in ("window", "local rotation") else "layer 0"
    refused(run, work, "gemma", layer, "gemma3_text", "transformers")


@pytest.mark.parametrize(
    ("values", "keywords"),
    [
        ({"model_type": "dbrx"}, ["dbrx", "mixture-of-experts"]),
        ({"model_type": "mamba"}, ["mamba", "state-space"]),
        ({"model_type": "kimi_linear"}, ["kimi_linear", "linear attention"]),
        ({"model_type": "gemma3n"}, ["gemma3n", "caches shared"]),
        ({"model_type": "mllama"}, ["mllama", "cross attention"]),
        ({"model_type": "bitnet"}, ["bitnet", "norm over all heads"]),
        ({"model_type": "t9"}, ["t9", "docs/families.md"]),
        ({"model_type": "gemma3", "text_config": {"model_type": "llama"}}, ["llama", "gemma3"]),
        ({"use_bidirectional_attention": True}, ["use_bidirectional_attention"]),
        ({"is_causal": False}, ["is_causal", "bidirectional"]),
        ({"clip_qkv": 8.0}, ["clip_qkv", "llama"]),
    ],
)
def test_a_config_with_a_part_that_is_not_supported(
    run: Run, work: Path, values: dict[str, Any], keywords: list[str]
) -> None:
    set_json(work / "m" / "config.json", **values)
    refused(run, work, "m", *keywords)
