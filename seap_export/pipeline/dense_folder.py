"""Provides a dense model as a folder that transformers can load, whatever its original form."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seap_export.sources.source import Source
from seap_export.sources.tensor_writer import SafetensorsWriter

__all__ = ["dense_folder"]


@contextmanager
def dense_folder(source: Source) -> Iterator[Path]:
    """The folder of a model's files; for a GGUF file, a temporary one with the converted weights.

    Raises:
        InputError: A weight is NaN or infinite.
    """
    if source.files[0].name == "config.json":
        yield source.files[0].parent
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # Windows keeps mapped files
        _write(source, Path(folder))
        yield Path(folder)


def _write(source: Source, folder: Path) -> None:
    """Writes config, tokenizer and weights, with one layer in memory at a time."""
    spec = source.spec
    (folder / "config.json").write_text(json.dumps(dict(source.config)), "utf-8", newline="\n")
    source.write_tokenizer(folder)
    with SafetensorsWriter(folder / "model.safetensors", spec.tensors(), source.reader.dtype) as writer:
        for name in ("embed_tokens", "norm", *(() if spec.tie_word_embeddings else ("lm_head",))):
            writer.write(spec.family.tensor(name), source.read_outer(name))
        for index in range(len(spec.layers)):
            tensors = source.read_layer(index)
            for name in spec.layer_tensors(index):
                writer.write(name, tensors[name])
