"""The kinds of faults."""

from __future__ import annotations

from typing import Literal, get_args

#: Numbers and how they are rounded; nodes, what they read and their settings; what says how to compute; other files.
Kind = Literal[
    "weight",
    "scale",
    "zero point",
    "bits",
    "wiring",
    "attribute",
    "constant",
    "metadata",
    "tokenizer",
    "config",
    "code",
    "file",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
