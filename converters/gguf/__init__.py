"""The format `gguf`: writes a model as a GGUF file for llama.cpp, and reads it back."""

from converters.gguf.format import GgufFormat

__all__ = ["GgufFormat"]
