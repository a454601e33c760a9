"""A pruned micro model, and what is written from it."""

from __future__ import annotations

from support.formats.written import fixtures_of

from converters.mlx import MlxFormat

qwen3, made, copied = fixtures_of(MlxFormat)
