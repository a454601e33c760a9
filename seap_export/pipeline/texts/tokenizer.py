"""The tokenizer of a dense model, as the artifacts will contain it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from seap_export.common.json_file import write_json
from seap_export.errors import InputError
from seap_export.model.families.family import PRUNED_PREFIX
from seap_export.model.sources.source import Source
from seap_export.runtime.files import too_slow
from seap_export.runtime.limits import watched


@contextmanager
def tokenizer_folder(source: Source) -> Iterator[Path]:
    """A temporary folder with the tokenizer as the artifacts contain it, and the configs that say how to load it.

    For some model types (qwen2), transformers 5 ignores the tokenizer class that the files name.
    """
    configs = {
        "config.json": {**source.config, "model_type": PRUNED_PREFIX + source.spec.family.model_type},
        "generation_config.json": source.generation_config,
    }
    with tempfile.TemporaryDirectory() as folder:
        source.write_tokenizer(Path(folder))
        for name, values in configs.items():
            if values is not None:
                write_json(Path(folder) / name, dict(values))
        yield Path(folder)


def token_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    return watched(lambda: tokenizer(list(texts))["input_ids"], sum(map(len, texts)), too_slow)


def load_tokenizer(source: Source) -> Any:
    """The tokenizer, loaded from the files that the artifacts will contain."""
    from transformers import AutoTokenizer

    with tokenizer_folder(source) as folder:
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            tokenizer([""])  # with some settings it loads, and then does not work
            return tokenizer
        except (ImportError, MemoryError):
            raise
        except Exception as error:  # damaged files raise nearly anything, including a bare Exception of `tokenizers`
            reason = " ".join(str(error).split())
            raise InputError(f"{source.name}: its tokenizer cannot be loaded ({reason}); download it again") from error
