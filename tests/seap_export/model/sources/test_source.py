"""A source is opened where config, weights and tokenizer agree, and refused with a reason where they do not."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load, load_file, save_file
from support.editing import edit_weights, set_json
from support.models import write_micro_model
from support.variations import VARIATIONS

from seap_export.errors import EnvironmentFailure, InputError
from seap_export.model.sources.open import open_source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_micro_model(tmp_path / "micro", model_type="llama")


def test_a_folder_gives_its_weights_under_their_full_names_and_its_generation_config(folder: Path) -> None:
    set_json(folder / "generation_config.json", temperature=0.6, max_length=8, suppress_tokens=[2])
    source = open_source(str(folder))
    assert source.generation_config == {"eos_token_id": 2, "pad_token_id": 0, "temperature": 0.6}
    (folder / "generation_config.json").unlink()
    assert open_source(str(folder)).generation_config is None
    stored = load_file(folder / "model.safetensors")
    layer = source.read_layer(1)
    assert set(layer) == {name for name in stored if name.startswith("model.layers.1.")}
    assert all(torch.equal(tensor, stored[name]) for name, tensor in layer.items())
    assert torch.equal(source.read_outer("norm"), stored["model.norm.weight"])
    assert torch.equal(source.read_outer("lm_head"), stored["lm_head.weight"])


def test_a_config_that_does_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    set_json(folder / "config.json", per_layer_config={"0": {"intermediate_size": 80}})
    with pytest.raises(InputError, match="did not write it"):
        open_source(str(folder))
    folder = write_micro_model(tmp_path / "mixture", model_type="mixtral")
    set_json(folder / "config.json", num_experts_per_tok=5)
    with pytest.raises(InputError, match="5 experts compute a token, but there are 4"):
        open_source(str(folder))


def test_what_is_no_model_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="not a model"):
        open_source(str(folder / "model.safetensors"))
    for file in ("tokenizer.json", "config.json"):
        (folder / file).unlink()
        with pytest.raises(InputError, match=f"no {file}"):
            open_source(str(folder))
    (folder / "model.Q8_0.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match=r"no config\.json; give a \.gguf file in it, such as .*/model\.Q8_0\.gguf"):
        open_source(str(folder))


def test_a_head_that_differs_from_the_embedding_it_is_tied_to_is_refused(tmp_path: Path) -> None:
    folder = write_micro_model(tmp_path / "tied", model_type="llama", tie_word_embeddings=True)
    edit_weights(
        folder, lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"].clone()})
    )
    assert "lm_head.weight" not in open_source(str(folder)).reader.shapes()
    edit_weights(folder, lambda tensors: tensors["lm_head.weight"][3, 4].add_(0.01))
    with pytest.raises(InputError, match=r"'lm_head\.weight'.*tie"):
        open_source(str(folder))
    edit_weights(folder, lambda tensors: tensors.update({"lm_head.weight": torch.ones(2, 2)}))
    with pytest.raises(InputError, match=r"'lm_head\.weight'"):
        open_source(str(folder))


@pytest.mark.parametrize("model_type", ["phi3", "mixtral"])
def test_weights_of_a_family_with_names_of_its_own_must_be_all_there_and_no_more(
    tmp_path: Path, model_type: str
) -> None:
    folder = write_micro_model(tmp_path / "own", model_type=model_type)
    tensors = load((folder / "model.safetensors").read_bytes())
    for name, tensor in tensors.items():
        save_file({stored: other for stored, other in tensors.items() if stored != name}, folder / "model.safetensors")
        with pytest.raises(InputError, match=f"'{name}' is missing"):
            open_source(str(folder))
        save_file({**tensors, name: tensor[1:].contiguous()}, folder / "model.safetensors")
        with pytest.raises(InputError, match=f"'{name}' is "):
            open_source(str(folder))
    save_file({**tensors, "model.layers.0.mlp.router.weight": torch.ones(2)}, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"router\.weight' is not part"):
        open_source(str(folder))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_refused_by_tensor(folder: Path, value: float) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    edit_weights(folder, lambda tensors: [tensors[one][3].fill_(value) for one in (name, "lm_head.weight")])
    source = open_source(str(folder))
    source.read_layer(0)
    with pytest.raises(InputError, match=name):
        source.read_layer(1)
    with pytest.raises(InputError, match=r"lm_head\.weight"):
        source.read_outer("lm_head")


def test_a_hub_model_is_read_from_its_snapshot(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = folder.parent / "snapshots" / ("0123456789" * 4)
    snapshot.parent.mkdir()
    folder.rename(snapshot)
    asked: list[tuple[str, str | None]] = []
    wanted_files: dict[str, list[str]] = {}

    def snapshot_download(model: str, revision: str | None, **patterns: list[str]) -> str:
        asked.append((model, revision))
        wanted_files.update(patterns)
        if model == "no/where":
            raise ConnectionError("the hub is out of reach\nand more lines")
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    for model in ("./no/where", "a/b@", "a/b@../c", "/no/where", "~/x", "name", "a/b.gguf", "a/b\n", "a\0/b"):
        with pytest.raises(InputError, match="no such folder or file"):
            open_source(model)
    assert asked == []  # only what can be a model is asked of the hub
    with pytest.raises(EnvironmentFailure, match=r"no/where: .*\(the hub is out of reach\); check the name and the"):
        open_source("no/where")
    source = open_source("owner/name")
    pinned = f"owner/name@{snapshot.name}"
    assert (source.name, source.hub_id, source.pinned_id) == ("owner--name", "owner/name", pinned)
    assert open_source("owner/name@refs/pr/1").pinned_id == pinned
    assert asked[1:] == [("owner/name", None), ("owner/name", "refs/pr/1")]
    assert source.digest == open_source(str(snapshot)).digest
    wanted = ["config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.json"]
    wanted += ["additional_chat_templates/tool_use.jinja"]
    others = ["consolidated.safetensors", "original/model.safetensors", "model.bin", "model.pth", "modeling.py"]
    others += ["onnx/config.json"]
    assert list(filter_repo_objects(wanted + others, **wanted_files)) == wanted


def test_the_digest_is_that_of_the_contents_not_of_the_place(tmp_path: Path) -> None:
    first, second = (write_micro_model(tmp_path / name, model_type="llama") for name in ("a", "b"))
    digests = [open_source(str(first)).digest]
    assert open_source(str(second)).digest == digests[0]
    for file in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        with (first / file).open("a") as stream:
            stream.write("\n")
        digests.append(open_source(str(first)).digest)
    edit_weights(first, lambda tensors: tensors["model.norm.weight"][0].add_(0.01))
    digests.append(open_source(str(first)).digest)
    assert len(set(digests)) == len(digests)


def test_names_may_lack_the_first_part_and_tensors_that_hold_no_weights_may_be_stored_besides(tmp_path: Path) -> None:
    """As in GPT-2's own checkpoint, and where another layer lends its keys."""
    source = open_source(str(write_micro_model(tmp_path / "m", **VARIATIONS["gpt2-tied"])))
    whole = {name: tensor.clone() for name, tensor in source.read_layer(1).items()}
    path = tmp_path / "m" / "model.safetensors"
    bare = {name.removeprefix("transformer."): tensor for name, tensor in load(path.read_bytes()).items()}
    save_file({**bare, "h.0.attn.bias": torch.ones(1, 1, 8, 8)}, path)
    again = open_source(str(tmp_path / "m")).read_layer(1)
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())
    folder = write_micro_model(tmp_path / "shared", **VARIATIONS["gemma4-shared"])
    unused = {f"model.layers.2.self_attn.{name}.weight": torch.ones(1) for name in ("k_proj", "v_proj", "k_norm")}
    edit_weights(folder, lambda tensors: tensors.update(unused))
    assert open_source(str(folder)).reader.shapes().keys().isdisjoint(unused)
