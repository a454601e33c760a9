"""Writes the tokenizer of a model into the metadata of a GGUF file."""
