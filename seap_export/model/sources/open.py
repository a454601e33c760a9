"""Opens models: folders, GGUF files and models on the hub, each checked against its config."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from seap_export.common.json_file import read_json, read_json_if_present, write_json
from seap_export.errors import EnvironmentFailure, InputError, MissingInput
from seap_export.model.families import (
    Attention,
    Family,
    ModelSpec,
    is_pruned,
    language_config,
    model_spec,
    names,
    wrapper_of_model_type,
)
from seap_export.model.sources.config import portable_config, portable_generation
from seap_export.model.sources.source import Source
from seap_export.model.sources.stored import PlainReader, StoredForm
from seap_export.model.sources.tokenizer import (
    check_templates,
    copy_tokenizer,
    read_tokenizer_config,
    tokenizer_files,
    without_code,
)
from seap_export.model.sources.weights import SafetensorsReader, WeightReader, check_weights, refuse_adapter
from seap_export.model.sources.wrapper import LanguagePart, with_prefix
from seap_export.runtime.chat import refuse_costly_template

#: Owner and name of a model on the hub.
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9][A-Za-z0-9_.-]{0,95}")
#: A branch, a tag or a commit of it.
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,254}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def open_source(model: str) -> Source:
    """Opens a model folder, a GGUF file or a model on the hub, and checks that its config and weights agree.

    Args:
        model: A path, OWNER/NAME or OWNER/NAME@REVISION.

    Raises:
        InputError: The model does not exist, is not supported or is damaged.
        EnvironmentFailure: A model on the hub cannot be downloaded.
    """
    path = Path(os.path.expanduser(model))
    # os.path, because Path.is_file raises for a name that is too long
    if os.path.isfile(path):
        if path.suffix != ".gguf":
            raise InputError(f"{model}: not a model; give a Hugging Face folder, a .gguf file or a hub id")
        source = open_gguf(path)
        if source.config.get("per_layer_config") is not None:
            raise InputError(
                f"{model}: already pruned (its layers differ in shape); give the folder hf/ that it was written from, "
                "or the dense model"
            )
        return source
    if os.path.isdir(path):
        return _folder_source(path, path.resolve().name)
    hub_id, at, revision = model.partition("@")
    if not is_hub_id(hub_id) or path.suffix == ".gguf" or (at and not _REVISION.fullmatch(revision)):
        raise MissingInput(f"{model}: no such folder or file; give a model folder, a .gguf file or a hub id")
    folder = _download(hub_id, revision or None)
    # the hub's cache names a snapshot by its commit
    commit = folder.name if folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name) else None
    return replace(_folder_source(folder, hub_id.replace("/", "--")), hub_id=hub_id, revision=commit)


def is_hub_id(text: str) -> bool:
    """Whether this can be OWNER/NAME of a model on the hub."""
    return _HUB_ID.fullmatch(text) is not None and ".." not in text


def _download(model: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    patterns = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt"]
    patterns += ["README.md", "LICEN[CS]E*", "NOTICE*", "COPYING*"]  # the card of a variant passes them on
    # the same weights in the original authors' format; of other folders, only further chat templates count
    copies = ["consolidated*", *(f"*/{pattern}" for pattern in patterns if pattern != "*.jinja")]
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=patterns, ignore_patterns=copies))
    except Exception as error:  # the hub client's errors share no useful base class across its releases
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].removeprefix("Got: ")
        raise EnvironmentFailure(
            f"{model}: no such folder, and the hub could not provide it ({reason}); "
            "check the name and the network, or give a local model folder"
        ) from error


def _folder_source(folder: Path, name: str) -> Source:
    if not (folder / "config.json").is_file():
        refuse_adapter(folder)
        if file := min(folder.glob("*.gguf"), default=None):
            raise InputError(f"{folder}: no config.json; give a .gguf file in it, such as {file}")
        raise InputError(f"{folder}: no config.json; a model folder needs config.json, safetensors and a tokenizer")
    values = read_json(folder / "config.json")
    config, wrapper = language_config(values), wrapper_of_model_type(values.get("model_type"))
    spec = model_spec(config)  # what is not supported is said before any weights are looked for
    if config.get("per_layer_config") is not None and spec.family.global_layers is None and not is_pruned(config):
        raise InputError(
            f"{folder}: its layers differ in shape (per_layer_config), and seap-export did not write it; "
            "give the dense model"
        )
    files = SafetensorsReader(folder)
    reader = with_prefix(files, spec.family) if wrapper is None else LanguagePart(files, wrapper)
    if wrapper is not None and "tie_word_embeddings" not in config:  # it decides, and does not always say so
        config["tie_word_embeddings"] = "lm_head.weight" not in reader.shapes()
        spec = model_spec(config)
    stored = replace(spec, family=_with_joint_experts(spec.family, reader))
    ignored = (*spec.family.buffers, spec.family.stored("lm_head"))  # a tied one may be stored besides
    if spec.family.further_layers:
        ignored += tuple(name for name in reader.shapes() if _is_further(name, len(spec.layers)))
    ignored += tuple(_replaced_by_lent(spec))
    check_weights(reader, StoredForm(stored).shapes, str(folder), ignored)
    _refuse_other_head(reader, spec, str(folder))
    generation = folder / "generation_config.json"
    defaults = read_json_if_present(generation)
    _check_token_ids({str(folder / "config.json"): config, str(generation): defaults or {}}, spec.vocab_size)
    check_templates(folder)
    extras = [file for file in (folder / "model.safetensors.index.json", generation) if file.is_file()]
    return Source(
        name=name,
        config=portable_config(spec.family.completed(config)),
        generation_config=None if defaults is None else portable_generation(defaults),
        spec=spec,
        reader=PlainReader(reader, stored),
        files=(folder / "config.json", *extras, *files.files, *tokenizer_files(folder)),
        write_tokenizer=lambda target: _carry_tokenizer(folder, target, spec.family.tokenizer_json_as_it_is),
    )


def _with_joint_experts(family: Family, reader: WeightReader) -> Family:
    """The family with the names of a checkpoint that stores its experts as transformers' modules hold them: together.

    Those have `gate_up_proj` and `down_proj` of all experts of a layer, [experts, out, in].
    """
    rules = family.experts
    if rules is None or "{expert}" not in family.names["experts_down_proj"]:
        return family
    both, output = (rules.path(f"experts.{name}") for name in ("gate_up_proj", "down_proj"))
    if not any(name.endswith(f".{output}") for name in reader.shapes()):
        return family
    apart = ("experts_gate_proj", "experts_up_proj")
    stored = {name: stored for name, stored in family.names.items() if name not in apart}
    stored |= {"experts_gate_up_proj": both, "experts_down_proj": output}
    return replace(family, names=stored, experts=replace(rules, as_parameters=True))


def _is_further(name: str, layers: int) -> bool:
    """Whether a tensor belongs to a layer that predicts further tokens."""
    return name.startswith("mtp.") or (names.layer_of(name) or 0) >= layers


def _replaced_by_lent(spec: ModelSpec) -> Iterator[str]:
    """Names of tensors that attention does not use since it attends to keys and values of another layer."""
    for index, layer in enumerate(spec.layers):
        if any(isinstance(sublayer, Attention) and sublayer.cache_of is not None for sublayer in layer.sublayers):
            yield from (f"{spec.family.module(name, index)}.weight" for name in ("k_proj", "v_proj", "k_norm"))


def _check_token_ids(configs: Mapping[str, Mapping[str, Any]], vocab_size: int) -> None:
    """Rejects special tokens that are not in the vocabulary; -1 means none in old configs."""
    for where, config in configs.items():
        for key in _SPECIAL_TOKENS:
            value = config.get(key)
            for token in value if isinstance(value, list) else [value]:
                if token is not None and not (type(token) is int and -1 <= token < vocab_size):
                    raise InputError(
                        f"{where}: {key} {token!r:.40} is not one of the model's {vocab_size} tokens; correct it"
                    )


def _refuse_other_head(reader: WeightReader, spec: ModelSpec, where: str) -> None:
    """Refuses an LM head that is stored besides a tied embedding and differs from it: one of the two would be lost."""
    head, embedding = (spec.family.stored(name) for name in ("lm_head", "embed_tokens"))
    if not spec.tie_word_embeddings or head not in reader.shapes():
        return
    tensors = reader.read([head, embedding])
    if not torch.equal(tensors[head], tensors[embedding]):
        raise InputError(
            f"{where}: config and weights disagree: '{head}' differs from the embedding that config.json ties it to; "
            "set tie_word_embeddings to false in config.json, or download the model again"
        )


def _carry_tokenizer(folder: Path, target: Path, as_it_is: bool) -> None:
    copy_tokenizer(folder, target)
    config = read_tokenizer_config(folder)
    kept = without_code(config, name_class=as_it_is)
    if kept is not config:
        write_json(target / "tokenizer_config.json", kept, indent=2)


def open_gguf(path: Path) -> Source:
    """Opens a GGUF file, of a dense model or one pruned by this package, and checks that it agrees with itself."""
    from seap_export.model.sources.gguf.config import gguf_config
    from seap_export.model.sources.gguf.file import GgufFile
    from seap_export.model.sources.gguf.reader import GgufReader
    from seap_export.model.sources.gguf.tokenizers import (
        gguf_chat_template,
        gguf_generation_config,
        gguf_tokenizer_files,
    )

    file = GgufFile.open(path)
    config = portable_config(gguf_config(file))
    try:
        spec = model_spec(config)
    except InputError as error:  # the file has no config.json
        raise InputError(f"{path}: {str(error).removeprefix('config.json: ')}") from error
    refuse_costly_template(path, gguf_chat_template(file))
    reader = GgufReader(file)
    check_weights(reader, spec.tensors(), str(path))
    texts = cache(partial(gguf_tokenizer_files, file))  # which takes a while, and is asked for often

    def write_tokenizer(target: Path) -> None:
        for name, text in texts().items():
            (target / name).write_text(text, "utf-8", newline="\n")

    return Source(
        name=path.stem,
        config=config,
        generation_config=gguf_generation_config(file),
        spec=spec,
        reader=reader,
        files=(path,),
        write_tokenizer=write_tokenizer,
    )
