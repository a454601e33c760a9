"""Folders that mlx-lm loads."""

from converters.mlx.format import MlxFormat

__all__ = ["MlxFormat"]
