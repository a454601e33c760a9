"""The format `mlx`: writes a model as a folder that mlx-lm loads, and reads it back."""

from converters.mlx.format import MlxFormat

__all__ = ["MlxFormat"]
