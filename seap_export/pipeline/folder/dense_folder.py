"""Provides a dense model as a folder that transformers can load, whatever its original form."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

from seap_export.common.json_file import read_json, write_json
from seap_export.model.sources.source import Source
from seap_export.pruning.shrink.write import write_weights


@contextmanager
def dense_folder(source: Source) -> Iterator[Path]:
    """The folder of a model's files; for a GGUF file or a multimodal model, a temporary one of the language model."""
    config = source.files[0]
    if config.name == "config.json" and read_json(config).get("model_type") == source.config["model_type"]:
        yield config.parent
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # Windows keeps mapped files
        _write(source, Path(folder))
        yield Path(folder)


@contextmanager
def shared_dense_folder(source: Source) -> Iterator[Callable[[], Path]]:
    """Yields a function that returns the dense model's folder, which its first call makes if needed."""
    with ExitStack() as stack:
        yield cache(lambda: stack.enter_context(dense_folder(source)))


def _write(source: Source, folder: Path) -> None:
    """Writes config, tokenizer and weights, with one layer in memory at a time."""
    write_json(folder / "config.json", dict(source.config))
    source.write_tokenizer(folder)
    layers = range(len(source.spec.layers))
    write_weights(source, source.spec, lambda first: map(source.read_layer, layers[first:]), folder)
