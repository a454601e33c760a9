"""A GGUF file of every family is read as the same model as the folder that it was made from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.formats.gguf import GGUF_VARIATIONS, write_micro_gguf
from support.models import skip_unless_loaded
from support.product import dense_folder, families
from transformers import AutoModelForCausalLM

from seap_export.model.families import family_of_model_type
from seap_export.model.sources.open import open_source

LONG = torch.arange(3, 33).reshape(2, 15).repeat(1, 2)


def logits(folder: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    with torch.no_grad():
        return model(LONG).logits


def test_every_family_with_a_gguf_form_has_a_micro_model() -> None:
    covered = {values["model_type"] for values in GGUF_VARIATIONS.values()}
    assert covered == {family.model_type for family in families() if family.gguf and family.gguf.is_read}


@pytest.mark.parametrize(("name", "fuse_qkv"), [(name, number % 2 > 0) for number, name in enumerate(GGUF_VARIATIONS)])
def test_a_file_is_the_model_of_its_folder(tmp_path: Path, name: str, fuse_qkv: bool) -> None:
    skip_unless_loaded(family_of_model_type(GGUF_VARIATIONS[name]["model_type"]))
    path = write_micro_gguf(tmp_path / "m", fuse_qkv=fuse_qkv, **GGUF_VARIATIONS[name])
    file, folder = open_source(str(path)), open_source(str(path.parent))
    assert file.spec == folder.spec
    names = list(folder.spec.tensors())
    expected, tensors = folder.reader.read(names), file.reader.read(names)
    assert all(torch.equal(tensors[key], expected[key].float()) for key in names)
    with dense_folder(file) as again:
        assert torch.allclose(logits(again), logits(path.parent), atol=1e-5)
