"""Copies a model's tokenizer files instead of saving the tokenizer again, which could change its token ids."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seap_export.common.json_file import read_json_if_present, write_json
from seap_export.errors import ArtifactError, InputError
from seap_export.model.sources.tokenizer_check import check_tokenizer, check_tokenizer_config
from seap_export.runtime.chat import PLAIN, TEXT_FORM, refuse_costly_template, template_sources
from seap_export.runtime.job import JOB, Job

#: The inputs of a decoder. By default `PreTrainedTokenizerFast` of transformers 4.57 also returns token_type_ids,
#: which `generate` rejects.
MODEL_INPUTS = ["input_ids", "attention_mask"]
_CONFIG = "tokenizer_config.json"
_NAMES = (
    "tokenizer.json",
    _CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
)
#: Where transformers looks for chat templates beside the default one.
_FURTHER_TEMPLATES = "additional_chat_templates/*.jinja"


def tokenizer_names(folder: Path) -> list[str]:
    """The names that tokenizer files can have in a model folder, and those of its further chat templates."""
    return [*_NAMES, *sorted(path.relative_to(folder).as_posix() for path in folder.glob(_FURTHER_TEMPLATES))]


def tokenizer_files(folder: Path) -> tuple[Path, ...]:
    """The tokenizer's files in a model folder.

    Raises:
        InputError: There is no tokenizer.json, which every runtime needs; it or tokenizer_config.json is damaged; or a
            file is a link to a place outside the folder.
    """
    files = tuple(folder / name for name in tokenizer_names(folder) if (folder / name).is_file())
    if folder / "tokenizer.json" not in files:
        raise InputError(
            f"{folder}: no tokenizer.json; save a fast tokenizer there first: "
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        )
    for file in files:
        if is_stray_link(file, folder):
            raise InputError(f"{file}: is a link to a file outside the model folder; replace it with the file itself")
    check_tokenizer(folder / "tokenizer.json")
    check_tokenizer_config(folder / _CONFIG, read_tokenizer_config(folder))
    return files


def check_templates(folder: Path) -> None:
    """Refuses a folder with a chat template that computes too much, before any work."""
    try:
        refuse_costly_template(folder, read_tokenizer_config(folder))
    except ArtifactError as error:
        raise InputError(str(error).replace("export again", "download it again")) from error


def is_stray_link(file: Path, folder: Path) -> bool:
    """Whether this file of a folder is a link that would copy some other file of this machine into the artifacts.

    Links within the folder are allowed, as are those of the hub's cache, where snapshots/REVISION/NAME points to
    blobs/HASH. If the folder itself is a link, its target counts as the folder.
    """
    folder, target = folder.resolve(), file.resolve()
    homes = [folder, *([folder.parents[1] / "blobs"] if folder.parent.name == "snapshots" else [])]
    return not any(target.is_relative_to(home) for home in homes)


def copy_tokenizer(folder: Path, target: Path) -> None:
    """Copies the tokenizer's files, unchanged, into the existing folder `target`."""
    for file in tokenizer_files(folder):
        copy = target / file.relative_to(folder)
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, copy)


def note_plain_texts(folder: Path) -> None:
    """Notes in a model folder with a chat template that the model was made from plain texts, which it continues."""
    config = read_tokenizer_config(folder)
    if template_sources(folder, config):
        write_json(folder / _CONFIG, {**config, TEXT_FORM: PLAIN}, indent=2)


def note_job(folder: Path, job: Job) -> None:
    """Notes in a model folder the job that the model has learnt."""
    write_json(folder / _CONFIG, {**read_tokenizer_config(folder), JOB: job.to_json()}, indent=2)


def without_code(config: Mapping[str, Any], *, name_class: bool) -> Mapping[str, Any]:
    """A tokenizer_config.json without custom code, and with the class that uses tokenizer.json unchanged.

    `auto_map` may name any repository on the hub. Its code would run when an artifact is loaded with
    trust_remote_code, which the modelling code of the artifact needs. Without a class, transformers 4.57 goes by the
    model type and knows no tokenizer for a pruned one. With another class, transformers 5 may rebuild a tokenizer that
    it leaves unchanged for the dense model.

    Args:
        config: The content of the file; it is returned itself if it can stay.
        name_class: Whether the class is replaced even if one is named that needs no code.
    """
    if not name_class and config.get("tokenizer_class") and "auto_map" not in config:
        return config
    kept = {key: value for key, value in config.items() if key != "auto_map"}
    return {"model_input_names": MODEL_INPUTS, **kept, "tokenizer_class": "PreTrainedTokenizerFast"}


def read_tokenizer_config(folder: Path) -> dict[str, Any]:
    """A folder's tokenizer_config.json; nothing if it has none.

    Raises:
        InputError: It is damaged.
    """
    return read_json_if_present(folder / _CONFIG) or {}
