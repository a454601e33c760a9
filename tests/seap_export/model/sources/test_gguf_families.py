"""A GGUF file of every family is read as the same model as the folder that it was made from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from support.corpora import write_corpus
from support.formats.gguf import GGUF_VARIATIONS, write_micro_gguf
from support.models import skip_unless_loaded
from support.product import dense_folder, families
from transformers import AutoModelForCausalLM

from seap_export.cli import main
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


@pytest.mark.parametrize("fuse_qkv", [False, True], ids=["apart", "fused"])
@pytest.mark.parametrize("name", GGUF_VARIATIONS)
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


@pytest.mark.full
@pytest.mark.parametrize("name", GGUF_VARIATIONS)
def test_a_pruned_file_passes_parity(tmp_path: Path, name: str) -> None:
    values = dict(GGUF_VARIATIONS[name])
    skip_unless_loaded(family_of_model_type(values["model_type"]), "per-layer")
    if "original_max_position_embeddings" in values:  # an input that grows longer turns earlier keys otherwise
        values["original_max_position_embeddings"] = 128
    path = write_micro_gguf(tmp_path / "m", **values)
    corpus, out = write_corpus(tmp_path / "a.jsonl"), tmp_path / "out"
    options = ["--ratio", "0.3", "--no-quality", "--no-speed", "--threads", "1", "--quiet", "--out", str(out)]
    result = CliRunner().invoke(main, ["export", str(path), "--task", f"a={corpus}", *options])
    assert result.exit_code == 0, result.stderr
    assert list((out / "a-0.3").rglob("model.onnx"))
