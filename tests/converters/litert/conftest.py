"""A pruned micro model, and what is written from it."""

from __future__ import annotations

from support.formats.written import fixtures_of

from converters.litert.format import LitertFormat

qwen3, made, copied = fixtures_of(LitertFormat)
