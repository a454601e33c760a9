"""A source that shows only the kept tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.editing import edit_json
from support.models import write_micro_model
from support.product import Vocabulary
from support.tokenizers import write_byte_level
from support.variations import VARIATIONS

from seap_export.errors import ArtifactError, InputError
from seap_export.model.sources.open import open_source


@pytest.mark.parametrize("variation", ["llama-gqa", "gemma3-all"])
def test_tables_configs_and_tokenizer_are_those_of_the_kept_tokens(tmp_path: Path, variation: str) -> None:
    model = write_micro_model(tmp_path / "m", vocab_size=130, **VARIATIONS[variation])
    write_byte_level(model, added_tokens_decoder={"63": {"content": "x"}})
    (model / "added_tokens.json").write_text('{"x": 63}')
    for other in ("vocab.json", "merges.txt", "tokenizer.model"):
        (model / other).write_text("{}")
    dense = open_source(str(model))
    kept = Vocabulary((0, 1, 2, *range(4, 40), 63), 130)
    cut = dense.with_tokens(kept)
    assert cut.digest == dense.digest
    assert cut.spec == dense.spec.with_tokens(40)
    assert cut.reader.dtypes() == dense.reader.dtypes()
    assert cut.reader.shapes() == cut.spec.tensors()
    for name in cut.spec.outer_names:
        table = dense.read_outer(name)
        assert torch.equal(cut.read_outer(name), table if name == "norm" else table[list(kept.kept)])
    assert all(torch.equal(tensor, dense.read_layer(1)[name]) for name, tensor in cut.read_layer(1).items())
    assert (cut.config["vocab_size"], cut.config["bos_token_id"], cut.config["eos_token_id"]) == (40, 1, 2)
    assert cut.generation_config == {**(dense.generation_config or {}), "eos_token_id": 2, "pad_token_id": 0}
    (tmp_path / "t").mkdir()
    cut.write_tokenizer(tmp_path / "t")
    names = {path.name for path in (tmp_path / "t").iterdir()}
    assert names == {"tokenizer.json", "tokenizer_config.json", "added_tokens.json"}
    assert json.loads((tmp_path / "t/added_tokens.json").read_text()) == {"x": 39}
    config = json.loads((tmp_path / "t/tokenizer_config.json").read_text())
    assert config["added_tokens_decoder"] == {"39": {"content": "x"}}


def test_a_vocabulary_without_a_token_that_is_named_or_of_another_number_is_refused(tmp_path: Path) -> None:
    """An added token that is not in the vocabulary always comes after it: the library would number it otherwise."""
    model = write_micro_model(tmp_path / "m", vocab_size=130, model_type="llama")
    write_byte_level(model)
    with pytest.raises(ArtifactError, match="lacks token 2"):
        open_source(str(model)).with_tokens(Vocabulary((0, 1, *range(3, 60)), 130))

    def add(values: dict[str, Any]) -> None:
        values["added_tokens"].append({**values["added_tokens"][0], "content": "<x>", "id": 10})
        values["model"]["vocab"] = {text: token for text, token in values["model"]["vocab"].items() if token != 10}
        values["model"]["merges"] = []

    edit_json(model / "tokenizer.json", add)
    (tmp_path / "t").mkdir()
    cut = open_source(str(model)).with_tokens(Vocabulary(tuple(range(60)), 130))
    with pytest.raises(InputError, match="--vocabulary all"):
        cut.write_tokenizer(tmp_path / "t")
