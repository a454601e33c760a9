"""Tokenizers as metadata of a GGUF file."""
