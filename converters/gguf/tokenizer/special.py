"""The special tokens of a model folder, and its chat template, as the metadata of a GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converters.gguf.metadata import Metadata
from converters.gguf.tokenizer.tokens import Tokens, refuse
from seap_export.common.json_file import read_json, read_json_if_present
from seap_export.runtime.chat import DEFAULT_TEMPLATE, template_sources

#: Where the further tokens that end a text go.
_FURTHER_ENDS = ("eot", "eom")
_ID = "tokenizer.ggml.{}_token_id"
#: What llama.cpp takes for Phi-3: after its special tokens spaces are dropped, but for these, which there must be.
_PHI3, _SPACES_KEPT = "phi3", {"<unk>", "<s>", "<|endoftext|>"}


def special_metadata(folder: Path, tokenizer: Mapping[str, Any], tokens: Tokens) -> Metadata:
    """BOS, PAD and the tokens that end a text, whether BOS and EOS are added, and the chat template."""
    settings = read_json_if_present(folder / "tokenizer_config.json") or {}
    ends = _ends(folder, settings, tokens)
    if len(ends) > 1 + len(_FURTHER_ENDS):
        raise refuse(f"{len(ends)} tokens end a text, and there is room for {1 + len(_FURTHER_ENDS)}")
    config = read_json(folder / "config.json")
    ids: dict[str, int | None] = {
        "bos": _token(settings, "bos_token", tokens, config.get("bos_token_id")),
        **dict(zip(("eos", *_FURTHER_ENDS), ends, strict=False)),
        "padding": _token(settings, "pad_token", tokens, None),
    }
    first, last = _frame(tokenizer)
    for name, text, key in (("BOS", first, "bos"), ("EOS", last, "eos")):
        if text is not None and tokens.ids.get(text) != ids.get(key):
            raise refuse(f"texts are framed by '{text}', which is not its {name} token")
    templates = template_sources(folder, settings)
    further = [name for name in templates if name != DEFAULT_TEMPLATE]
    return {
        **{_ID.format(key): value for key, value in ids.items() if value is not None},
        "tokenizer.ggml.add_bos_token": first is not None,
        "tokenizer.ggml.add_eos_token": last is not None,
        **({"tokenizer.chat_template": templates[DEFAULT_TEMPLATE]} if templates else {}),
        **({"tokenizer.chat_templates": further} if further else {}),
        **{f"tokenizer.chat_template.{name}": templates[name] for name in further},
        **_name(tokenizer),
    }


def _name(tokenizer: Mapping[str, Any]) -> Metadata:
    """The name by which llama.cpp knows that spaces after special tokens are dropped."""
    special = [token for token in tokenizer.get("added_tokens") or [] if token.get("special")]
    if not any(token.get("rstrip") for token in special):
        return {}
    if {token["content"] for token in special if not token.get("rstrip")} != _SPACES_KEPT:
        raise refuse("spaces after some special tokens are dropped")
    return {"general.name": _PHI3}


def _ends(folder: Path, settings: Mapping[str, Any], tokens: Tokens) -> list[int]:
    """The tokens that end a text: the tokenizer's own first, if generation stops at it."""
    given = (read_json_if_present(folder / "generation_config.json") or {}).get("eos_token_id")
    if given is None:
        given = read_json(folder / "config.json").get("eos_token_id")
    listed = [] if given is None else list(given) if isinstance(given, list) else [given]
    end = _token(settings, "eos_token", tokens, None)
    if end is not None and (end in listed or not listed):
        listed = [end, *listed]
    return list(dict.fromkeys(listed))


def _token(settings: Mapping[str, Any], key: str, tokens: Tokens, otherwise: int | None) -> int | None:
    value = settings.get(key)
    text = value.get("content") if isinstance(value, Mapping) else value
    return otherwise if text is None else tokens.ids.get(text, otherwise)


def _frame(tokenizer: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The tokens that are added before and after a text."""
    given = tokenizer.get("post_processor") or {"type": "Sequence", "processors": []}
    steps = given["processors"] if given["type"] == "Sequence" else [given]
    framing = [step for step in steps if step["type"] != "ByteLevel"]
    if not framing:
        return None, None
    if len(framing) > 1 or framing[0]["type"] != "TemplateProcessing":
        raise refuse(f"texts are framed by {framing[-1]['type']}")
    parts = [next(iter(part.items())) for part in framing[0]["single"]]
    sequences = [index for index, (kind, _) in enumerate(parts) if kind == "Sequence"]
    if len(sequences) != 1 or sequences[0] > 1 or len(parts) > sequences[0] + 2:
        raise refuse("texts are framed by several tokens")
    before, after = parts[: sequences[0]], parts[sequences[0] + 1 :]
    return (before[0][1]["id"] if before else None), (after[0][1]["id"] if after else None)
