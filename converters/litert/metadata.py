"""Makes the sections that LiteRT-LM reads besides the program: the tokenizer, and end tokens with the template."""

from __future__ import annotations

import re
import zlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from converters.litert.packages import require
from seap_export.errors import InputError
from seap_export.model.sources.config import end_tokens
from seap_export.runtime.chat import ChatTemplate, read_chat_template
from seap_export.runtime.files import load_tokenizer

#: LiteRT-LM gives the content of a turn as a list of parts, which few templates take.
_AS_TEXT = (
    "{% set ns = namespace(turns=[]) %}{% for message in messages %}{% if message.content is string %}"
    "{% set ns.turns = ns.turns + [message] %}{% else %}{% set ns.turns = ns.turns + "
    "[dict(message, content=message.content | map(attribute='text') | join)] %}{% endif %}{% endfor %}"
    "{% set messages = ns.turns %}"
)
#: Patterns of what LiteRT-LM's template engine lacks in chat templates, and their replacements.
_LACKING = {r"\{%-?\s*(?:end)?generation\s*-?%\}": "", r"\.get\(\s*(['\"][^'\"]+['\"])\s*\)": r"[\1]"}
_SIZE_BYTES = 8


def llm_metadata(model_folder: Path, context: int) -> bytes:
    """The serialised `LlmMetadata` of a model whose cache holds `context` tokens."""
    tokenizer, made = load_tokenizer(model_folder), require("litert_lm_builder.runtime.proto.llm_metadata_pb2")
    template, metadata = read_chat_template(model_folder, tokenizer), made.LlmMetadata()
    ends, starts = set(end_tokens(model_folder)), tokenizer.encode("").ids[:1]
    if template is not None:
        ends |= template.turn_ends(tokenizer)
        metadata.jinja_prompt_template = _AS_TEXT + _plain(template)
        bos = template.special_tokens.get("bos_token", "")
        if not starts and _rendered(template, bos) != _rendered(template, ""):
            starts = tokenizer.encode(bos, add_special_tokens=False).ids
    for start in starts:
        metadata.start_token.token_ids.ids.append(start)
    for end in sorted(ends):
        metadata.stop_tokens.add().token_ids.ids.append(end)
    metadata.max_num_tokens = context
    metadata.llm_model_type.generic_model.SetInParent()
    serialised: bytes = metadata.SerializeToString(deterministic=True)
    return serialised


def _plain(template: ChatTemplate) -> str:
    text = template.sources["default"]
    for pattern, instead in _LACKING.items():
        text = re.sub(pattern, instead, text)
    return text


def _rendered(template: ChatTemplate, bos: str) -> str:
    """A conversation rendered with `bos` as the value of `bos_token`; "" if the template refuses it.

    LiteRT-LM gives `bos_token` no value, but puts the start token before a text.
    """
    with suppress(InputError):  # it may refuse any conversation
        tokens = {**template.special_tokens, "bos_token": bos}
        return replace(template, special_tokens=tokens).render([{"role": "user", "content": "x"}])
    return ""


def packed_tokenizer(model_folder: Path) -> bytes:
    """tokenizer.json as LiteRT-LM stores it: its size, then its compressed bytes."""
    text = (model_folder / "tokenizer.json").read_bytes()
    return len(text).to_bytes(_SIZE_BYTES, "little") + zlib.compress(text)


def unpacked_tokenizer(section: bytes) -> bytes:
    """The tokenizer.json in a section that `packed_tokenizer` made; raises `zlib.error` if the section is damaged."""
    return zlib.decompress(section[_SIZE_BYTES:])


def is_packed(section: bytes, text: bytes) -> bool:
    """Whether a section is what `packed_tokenizer` makes of a text, with any release of zlib, and nothing more."""
    stream = zlib.decompressobj()
    try:
        unpacked = stream.decompress(section[_SIZE_BYTES:], len(text) + 1)
    except zlib.error:
        return False
    told = int.from_bytes(section[:_SIZE_BYTES], "little")
    return unpacked == text and told == len(text) and stream.eof and not stream.unused_data
