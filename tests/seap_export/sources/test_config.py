"""A portable config means the same in transformers 4.57 and 5."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from calibrated import skip_unless_loaded
from micro import VARIATIONS, micro_config
from transformers import AutoConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from seap_export.errors import InputError
from seap_export.families import family_of_model_type, model_spec
from seap_export.sources.config import portable_config, read_json

THETA = 5000.0
PLAIN: dict[str, dict[str, Any]] = {
    "transformers 4": {"rope_theta": THETA, "rope_scaling": None},
    "transformers 5": {"rope_parameters": {"rope_theta": THETA, "rope_type": "default"}},
}
LINEAR: dict[str, dict[str, Any]] = {
    "oldest": {"rope_theta": THETA, "rope_scaling": {"type": "linear", "factor": 4.0}},
    "transformers 4": {"rope_theta": THETA, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "both": {"rope_theta": THETA, "rope_scaling": {"rope_type": "linear", "type": "linear", "factor": 4.0}},
    "transformers 5": {"rope_parameters": {"rope_theta": THETA, "rope_type": "linear", "factor": 4.0}},
}


def config_spelled(values: dict[str, Any]) -> dict[str, Any]:
    """A llama config whose only rotary values are `values`."""
    config = micro_config(model_type="llama")
    return {key: value for key, value in config.items() if not key.startswith("rope_")} | values


def frequencies(config: dict[str, Any], folder: Path) -> torch.Tensor:
    """What the installed transformers rotates by, once it has read the config from a folder."""
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    return LlamaRotaryEmbedding(AutoConfig.from_pretrained(folder)).inv_freq


def expected_frequencies(factor: float = 1.0) -> torch.Tensor:
    return THETA ** (-torch.arange(0, 16, 2, dtype=torch.float64) / 16).float() / factor


@pytest.mark.parametrize("spelling", PLAIN)
def test_the_installed_transformers_reads_theta_from_either_spelling(tmp_path: Path, spelling: str) -> None:
    portable = portable_config(config_spelled(PLAIN[spelling]))
    torch.testing.assert_close(frequencies(portable, tmp_path), expected_frequencies())


@pytest.mark.parametrize("spelling", LINEAR)
def test_the_installed_transformers_reads_scaling_from_either_spelling(tmp_path: Path, spelling: str) -> None:
    portable = portable_config(config_spelled(LINEAR[spelling]))
    torch.testing.assert_close(frequencies(portable, tmp_path), expected_frequencies(factor=4.0))


@pytest.mark.parametrize("spellings", [PLAIN, LINEAR], ids=["plain", "linear"])
def test_all_spellings_become_one(spellings: dict[str, dict[str, Any]]) -> None:
    first, *others = (portable_config(config_spelled(values)) for values in spellings.values())
    assert first["rope_theta"] == THETA
    assert all(other == first for other in others)


@pytest.mark.parametrize("variation", VARIATIONS)
def test_what_the_installed_transformers_saves_is_the_same_model(tmp_path: Path, variation: str) -> None:
    config = micro_config(**VARIATIONS[variation])
    skip_unless_loaded(family_of_model_type(config["model_type"]))
    AutoConfig.for_model(**config).save_pretrained(tmp_path)
    saved = read_json(tmp_path / "config.json")
    spec = model_spec(config)
    assert model_spec(saved) == model_spec(portable_config(saved)) == spec


def test_a_portable_config_stays_as_it_is() -> None:
    portable = portable_config(config_spelled(LINEAR["transformers 5"]))
    assert portable_config(portable) == portable


@pytest.mark.parametrize("key", ["torch_dtype", "dtype"])
def test_the_dtype_has_its_newer_name(key: str) -> None:
    config = {"model_type": "llama", key: "bfloat16"}
    portable = portable_config(config)
    assert portable["dtype"] == "bfloat16"
    assert "torch_dtype" not in portable


def test_what_a_loader_put_in_is_left_out_and_the_rest_kept() -> None:
    config = {"model_type": "llama", "_name_or_path": "/me", "transformers_version": "4.40", "vocab_size": 7, "x": [1]}
    portable = portable_config(config)
    assert not portable.keys() & {"_name_or_path", "transformers_version"}
    assert (portable["vocab_size"], portable["x"]) == (7, [1])


def test_the_config_given_is_not_changed() -> None:
    config = config_spelled(LINEAR["transformers 5"])
    before = json.dumps(config)
    portable_config(config)
    assert json.dumps(config) == before


@pytest.mark.parametrize(("text", "message"), [("{", "not a readable JSON"), ("[1]", "expected a JSON object")])
def test_a_file_that_holds_no_json_object_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "some.json").write_text(text, "utf-8")
    with pytest.raises(InputError, match=rf"some\.json: {message}"):
        read_json(tmp_path / "some.json")


def test_a_file_that_is_no_text_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "some.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"some\.json: not a readable JSON"):
        read_json(tmp_path / "some.json")


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"some\.json: no such file"):
        read_json(tmp_path / "some.json")
