"""GGUF files for llama.cpp."""

from converters.gguf.format import GgufFormat

__all__ = ["GgufFormat"]
