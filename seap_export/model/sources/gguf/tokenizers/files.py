"""Writes the tokenizer of a GGUF file as tokenizer.json and tokenizer_config.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from seap_export.common.json_file import json_text
from seap_export.errors import InputError
from seap_export.model.families import Family, GgufForm
from seap_export.model.sources.gguf.file import GgufFile
from seap_export.model.sources.gguf.tokenizers.byte_level import byte_level
from seap_export.model.sources.gguf.tokenizers.sentencepiece import sentencepiece
from seap_export.model.sources.gguf.tokenizers.special_tokens import add_special_tokens, frame
from seap_export.model.sources.gguf.tokenizers.vocabulary import special_id, special_token
from seap_export.model.sources.tokenizer import MODEL_INPUTS

#: The special tokens that end a text, a turn or a message.
_ENDS = ("eos", "eot", "eom")


def gguf_tokenizer_files(file: GgufFile) -> dict[str, str]:
    """The text of `tokenizer.json` and of `tokenizer_config.json` (with the chat template), by name."""
    tokenizer = _whole(file).to_str(pretty=True)
    return {"tokenizer.json": tokenizer, "tokenizer_config.json": json_text(_tokenizer_config(file), indent=2)}


def tokenizer_of(path: Path, metadata: Mapping[str, Any], family: Family) -> Tokenizer:
    """The tokenizer of a GGUF file that has these metadata; errors name the path.

    Raises:
        InputError: They do not describe a known tokenizer.
    """
    return _whole(GgufFile(path, metadata, {}, family, GgufForm("")))


def _whole(file: GgufFile) -> Tokenizer:
    tokenizer, adds_bos = _build(file)
    add_special_tokens(file, tokenizer)
    frame(file, tokenizer, adds_bos)
    return tokenizer


def gguf_generation_config(file: GgufFile) -> dict[str, Any]:
    """A generation_config.json with the BOS and PAD ids, and the EOS id or a list of it and those that end a turn."""
    ids = {key: special_id(file, key) for key in ("bos", *_ENDS, "padding")}
    ends = list(dict.fromkeys(ids[key] for key in _ENDS if ids[key] is not None))
    eos = ends if len(ends) > 1 else next(iter(ends), None)
    config = {"bos_token_id": ids["bos"], "eos_token_id": eos, "pad_token_id": ids["padding"]}
    return {key: value for key, value in config.items() if value is not None}


def _build(file: GgufFile) -> tuple[Tokenizer, bool]:
    """The tokenizer without special tokens, and whether it adds BOS if the file does not say."""
    kind = file.metadata.get("tokenizer.ggml.model")
    try:
        if kind == "gpt2":
            return byte_level(file)
        if kind == "llama":
            return sentencepiece(file), True
    except InputError:
        raise
    except Exception as error:  # the tokenizers library raises a plain `Exception` for invalid merges
        raise InputError(f"{file.path}: the tokenizer is damaged ({error}); download the file again") from error
    raise InputError(
        f"{file.path}: tokenizer model {kind!r} is not supported; supported: gpt2, llama; give the Hugging Face folder"
    )


def gguf_chat_template(file: GgufFile) -> dict[str, Any]:
    """The chat templates of a GGUF file, as tokenizer_config.json says them; nothing if it has none."""
    template: Any = file.metadata.get("tokenizer.chat_template")
    further = file.metadata.get("tokenizer.chat_templates")
    if template and isinstance(further, list):
        named = {str(name): file.metadata.get(f"tokenizer.chat_template.{name}") for name in further}
        template = [{"name": name, "template": text} for name, text in {"default": template, **named}.items() if text]
    return {"chat_template": template} if template else {}


def _tokenizer_config(file: GgufFile) -> dict[str, Any]:
    names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    return {
        # This class uses tokenizer.json unchanged; one named after a model would rebuild parts of it.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": MODEL_INPUTS,
        "clean_up_tokenization_spaces": False,
        "model_max_length": file.whole("context_length"),
        # A missing token must be stated as null, or some classes add a default.
        **{name: special_token(file, key) for name, key in names.items()},
        **gguf_chat_template(file),
    }
