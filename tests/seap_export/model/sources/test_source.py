"""A source is opened where config, weights and tokenizer agree, and refused with a reason where they do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file
from support.editing import edit_weights, set_json
from support.models import write_micro_model
from support.variations import VARIATIONS

from seap_export.errors import EnvironmentFailure, InputError
from seap_export.model.families import Attention
from seap_export.model.sources.open import open_source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_micro_model(tmp_path / "micro", model_type="llama")


def change_config(folder: Path, **values: Any) -> None:
    set_json(folder / "config.json", **values)


def test_a_folder_gives_its_weights_under_their_full_names(folder: Path) -> None:
    source = open_source(str(folder))
    stored = load_file(folder / "model.safetensors")
    layer = source.read_layer(1)
    assert set(layer) == {name for name in stored if name.startswith("model.layers.1.")}
    assert all(torch.equal(tensor, stored[name]) for name, tensor in layer.items())
    assert torch.equal(source.read_outer("norm"), stored["model.norm.weight"])
    assert torch.equal(source.read_outer("lm_head"), stored["lm_head.weight"])


def test_a_source_is_named_by_its_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert open_source(".").name == open_source(f"{folder}/").name == "micro"


def test_generation_config_is_read_where_there_is_one(folder: Path) -> None:
    set_json(folder / "generation_config.json", temperature=0.6, max_length=8, suppress_tokens=[2])
    kept = {"eos_token_id": 2, "pad_token_id": 0, "temperature": 0.6}
    assert open_source(str(folder)).generation_config == kept
    (folder / "generation_config.json").unlink()
    assert open_source(str(folder)).generation_config is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_hidden_layers": 4}, r"disagree: tensor 'model\.layers\.3\..*' is missing"),
        ({"intermediate_size": 64}, r"disagree: '.*mlp.*' is \[80, 96\],.* \[64, 96\]"),
        ({"per_layer_config": {"0": {"intermediate_size": 80}}}, "did not write it"),
        ({"model_type": "xglm"}, "'xglm' is not supported"),
    ],
    ids=["another depth", "another shape", "of several shapes", "an unknown family"],
)
def test_a_config_that_does_not_fit_is_refused(folder: Path, values: dict[str, Any], message: str) -> None:
    change_config(folder, **values)
    with pytest.raises(InputError, match=message):
        open_source(str(folder))


@pytest.mark.parametrize(
    ("file", "message"), [("tokenizer.json", r"no tokenizer\.json"), ("config.json", r"no config\.json")]
)
def test_a_folder_without_a_file_is_refused(folder: Path, file: str, message: str) -> None:
    (folder / file).unlink()
    with pytest.raises(InputError, match=message):
        open_source(str(folder))


def test_weights_that_the_family_has_not_disagree(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors.update({"model.layers.0.self_attn.q_norm.weight": torch.ones(16)}))
    with pytest.raises(InputError, match=r"q_norm\.weight' is not part of the family"):
        open_source(str(folder))


def test_a_file_that_is_no_model_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="not a model"):
        open_source(str(folder / "model.safetensors"))


_ROUTER = "model.layers.1.block_sparse_moe.gate.weight"
_EXPERT = "model.layers.1.block_sparse_moe.experts.2.w1.weight"


@pytest.mark.parametrize(
    ("change", "values", "message"),
    [
        (
            lambda tensors: tensors.update({_ROUTER: tensors[_ROUTER][:-1].clone()}),
            {},
            r"gate.*\[3, 96\], not \[4, 96\]",
        ),
        (lambda tensors: tensors.pop(_ROUTER), {}, "gate.weight' is missing"),
        (lambda tensors: tensors.pop(_EXPERT), {}, r"experts\.2\.w1\.weight' is missing"),
        (lambda tensors: tensors.update({_EXPERT: torch.zeros(63, 96)}), {}, r"experts\.2\.w1.*\[63, 96\], not"),
        (lambda tensors: None, {"num_experts_per_tok": 5}, "5 experts compute a token, but there are 4"),
        (lambda tensors: None, {"num_local_experts": 5}, r"gate.*\[4, 96\], not \[5, 96\]"),
    ],
)
def test_a_router_and_experts_that_do_not_fit_are_refused(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object], values: dict[str, Any], message: str
) -> None:
    folder = write_micro_model(tmp_path / "mixture", model_type="mixtral")
    edit_weights(folder, change)
    change_config(folder, **values)
    with pytest.raises(InputError, match=message):
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


@pytest.mark.parametrize("model_type", ["phi3", "gemma2", "granitemoehybrid"])
def test_weights_of_a_family_with_names_of_its_own_must_be_all_there_and_no_more(
    tmp_path: Path, model_type: str
) -> None:
    folder = write_micro_model(tmp_path / "own", model_type=model_type)
    tensors = load_file(folder / "model.safetensors")
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
    edit_weights(folder, lambda tensors: tensors[name][3].fill_(value))
    source = open_source(str(folder))
    source.read_layer(0)
    with pytest.raises(InputError, match=name):
        source.read_layer(1)


def test_an_embedding_that_is_not_finite_is_refused_by_tensor(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors["model.embed_tokens.weight"][0].fill_(float("nan")))
    with pytest.raises(InputError, match=r"embed_tokens\.weight"):
        open_source(str(folder)).read_outer("embed_tokens")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hub out of reach; the list holds the models that were asked for."""
    asked: list[str] = []

    def snapshot_download(model: str, **options: Any) -> str:
        asked.append(model)
        raise ConnectionError("the hub is out of reach\nand more lines")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


def test_a_hub_model_that_cannot_be_had_is_a_failure_of_the_environment(hub: list[str]) -> None:
    with pytest.raises(EnvironmentFailure, match=r"owner/name: .*\(the hub is out of reach\); check the name and the"):
        open_source("owner/name")
    assert hub == ["owner/name"]


@pytest.mark.parametrize(
    "model",
    ["./no/where", "a/b@", "a/b@../c", "a/b@-c", "no/where/at/all", "../x", "/no/where", "~/x", "name", "a/b.gguf"],
)
def test_a_path_that_is_not_there_is_never_asked_of_the_hub(hub: list[str], model: str) -> None:
    with pytest.raises(InputError, match="no such folder or file"):
        open_source(model)
    assert hub == []


def test_a_hub_model_is_read_from_its_snapshot(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, list[str]] = {}

    def snapshot_download(model: str, revision: str | None, **patterns: list[str]) -> str:
        asked.update(patterns)
        revisions.append(revision)
        return str(snapshot)

    commit, revisions = "0123456789" * 4, []
    snapshot = folder.parent / "snapshots" / commit
    snapshot.parent.mkdir()
    folder.rename(snapshot)
    folder = snapshot
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    source = open_source("owner/name")
    assert (source.name, source.hub_id, source.pinned_id) == ("owner--name", "owner/name", f"owner/name@{commit}")
    assert open_source("owner/name@refs/pr/1").pinned_id == f"owner/name@{commit}"
    assert revisions == [None, "refs/pr/1"]
    assert source.digest == open_source(str(folder)).digest
    wanted = ["config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.json"]
    wanted += ["additional_chat_templates/tool_use.jinja"]
    others = ["consolidated.safetensors", "original/model.safetensors", "model.bin", "model.pth", "modeling.py"]
    others += ["onnx/config.json"]
    assert list(filter_repo_objects(wanted + others, **asked)) == wanted


def test_the_digest_is_that_of_the_contents_not_of_the_place(tmp_path: Path) -> None:
    first, second = (write_micro_model(tmp_path / name, model_type="llama") for name in ("a", "b"))
    assert open_source(str(first)).digest == open_source(str(second)).digest


@pytest.mark.parametrize("file", ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"])
def test_the_digest_changes_with_every_json_file(folder: Path, file: str) -> None:
    before = open_source(str(folder)).digest
    with (folder / file).open("a") as stream:
        stream.write("\n")
    assert open_source(str(folder)).digest != before


def test_the_digest_changes_with_one_weight(folder: Path) -> None:
    before = open_source(str(folder)).digest
    edit_weights(folder, lambda tensors: tensors["model.norm.weight"][0].add_(0.01))
    assert open_source(str(folder)).digest != before


def test_the_config_is_in_the_portable_spelling(folder: Path) -> None:
    rope = {"rope_theta": 5000.0, "rope_type": "default"}
    change_config(folder, rope_theta=None, rope_parameters=rope, transformers_version="5.0.0")
    source = open_source(str(folder))
    stored_rope = source.spec.first(Attention).rope
    assert stored_rope is not None
    assert source.config["rope_theta"] == stored_rope.theta == 5000.0
    assert not source.config.keys() & {"rope_parameters", "transformers_version"}


def test_names_may_lack_the_first_part_and_buffers_hold_no_weights(tmp_path: Path) -> None:
    """As in GPT-2's own checkpoint."""
    source = open_source(str(write_micro_model(tmp_path / "m", **VARIATIONS["gpt2-tied"])))
    whole = source.read_layer(1)
    path = tmp_path / "m" / "model.safetensors"
    bare = {name.removeprefix("transformer."): tensor for name, tensor in load_file(path).items()}
    save_file({**bare, "h.0.attn.bias": torch.ones(1, 1, 8, 8)}, path)
    again = open_source(str(tmp_path / "m")).read_layer(1)
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())


def test_keys_that_another_layer_lends_may_be_stored_besides(tmp_path: Path) -> None:
    folder = write_micro_model(tmp_path / "model", **VARIATIONS["gemma4-shared"])
    tensors = load_file(folder / "model.safetensors")
    unused = {f"model.layers.2.self_attn.{name}.weight": torch.ones(1) for name in ("k_proj", "v_proj", "k_norm")}
    save_file({**tensors, **unused}, folder / "model.safetensors", metadata={"format": "pt"})
    assert open_source(str(folder)).reader.shapes().keys().isdisjoint(unused)
