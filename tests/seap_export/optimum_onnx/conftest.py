"""Variants as an export leaves them, pruned by hand: layers of different shapes, `hf/` and `onnx/`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from micro import VARIATIONS, write_micro_model

#: Layer 0 stays whole, with 3 KV heads of 6.
_PER_LAYER = {
    "1": {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48, "o_proj_bias": True},
    "2": {"num_attention_heads": 1, "num_key_value_heads": 1, "intermediate_size": 16, "down_proj_bias": True},
}


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`pristine("qwen2")`: the folder of a variant, named as in `VARIATIONS`; not to be changed."""
    from converters.onnx.folder import convert_folder

    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            folder = made[name] = tmp_path_factory.mktemp("variant")
            values: dict[str, Any] = dict(VARIATIONS[name])
            values["model_type"] = f"seap_{values['model_type']}"
            write_micro_model(folder / "hf", per_layer_config=_PER_LAYER, **values)
            (folder / "onnx").mkdir()
            convert_folder(folder / "hf", folder / "onnx")
        return made[name]

    return make


@pytest.fixture
def variant(pristine: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of the llama variant."""
    return Path(shutil.copytree(pristine("llama-gqa"), tmp_path / "variant"))
