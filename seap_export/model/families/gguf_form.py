"""How GGUF files hold the models of a family, as the `[gguf]` table of its TOML file says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class GgufForm:
    """What GGUF files of a family do not say themselves.

    Attributes:
        architecture: `general.architecture` of the files.
        is_read: Whether such files can be read; otherwise they are only written.
        uneven: The architecture of files with layers of several shapes, of this family unless the file names another;
            "": there is none.
        rotary_rows_permuted: Whether they store the q and k rows for interleaved rotation.
        names: The plain names of norms whose GGUF names usually mean another one.
        keys: The metadata that hold the values of further keys of config.json.
        constants: What llama.cpp assumes for keys of config.json that the metadata do not give: a value, a formula, or
            a table with one for a number of layers and another (`other`) for the rest.
        tokenizers: The only values of `tokenizer.ggml.pre` whose ids can be guaranteed, because transformers 5 loads
            the tokenizers of this `model_type` with a rule of its own, whatever the files say; empty: all known ones.
        spaces_kept_after: In a sentencepiece tokenizer, the special tokens after which spaces are kept; after the
            others they are dropped, which a GGUF file does not record. None: after all.
    """

    architecture: str
    is_read: bool = True
    uneven: str = ""
    rotary_rows_permuted: bool = False
    names: Mapping[str, str] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    tokenizers: tuple[str, ...] = ()
    spaces_kept_after: tuple[str, ...] | None = None
