"""A source whose vocabulary is cut down: rows of the embedding and the LM head, the tokenizer, the special tokens."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from seap_export.common.json_file import read_json, write_json
from seap_export.errors import ArtifactError, InputError
from seap_export.model.families import names
from seap_export.model.sources.weights import WeightReader
from seap_export.model.vocabulary.config import renumbered_tokenizer_config
from seap_export.model.vocabulary.table import Vocabulary
from seap_export.model.vocabulary.tokenizer import cut_tokenizer, fixed_tokens

#: Files of a tokenizer that hold the dense vocabulary in other forms; tokenizer.json has all that they say.
_OTHER_FORMS = ("vocab.json", "merges.txt", "tokenizer.model")


class KeptRows:
    """A `WeightReader` that gives only the rows of kept tokens."""

    def __init__(self, reader: WeightReader, vocabulary: Vocabulary) -> None:
        self._reader, self._vocabulary = reader, vocabulary
        self._tables = {names.tensor(name) for name in ("embed_tokens", "layer_inputs", "lm_head", "lm_head_bias")}

    def dtypes(self) -> dict[str, torch.dtype]:
        return self._reader.dtypes()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        rows = len(self._vocabulary)
        return {
            name: (rows, *shape[1:]) if name in self._tables else shape
            for name, shape in self._reader.shapes().items()
        }

    def read(self, wanted: Iterable[str]) -> dict[str, torch.Tensor]:
        rows = torch.from_numpy(self._vocabulary.rows)
        return {
            name: tensor[rows] if name in self._tables else tensor
            for name, tensor in self._reader.read(wanted).items()
        }


def cut_tokenizer_files(folder: Path, vocabulary: Vocabulary) -> None:
    """Rewrites the tokenizer's files in a folder for the kept tokens."""
    path = folder / "tokenizer.json"
    content = read_json(path)
    refuse_lost_tokens(vocabulary, fixed_tokens(content))
    cut = cut_tokenizer(content, vocabulary)
    write_json(path, cut, indent=2)
    for name in ("tokenizer_config.json", "added_tokens.json"):
        if (folder / name).is_file():
            values = read_json(folder / name)
            renumbered = (
                renumbered_tokenizer_config(values, vocabulary)
                if name == "tokenizer_config.json"
                else {text: vocabulary.new_ids[token] for text, token in values.items()}
            )
            write_json(folder / name, renumbered, indent=2)
    for name in _OTHER_FORMS:
        (folder / name).unlink(missing_ok=True)
    _check_ids(path, {**cut["model"]["vocab"], **{entry["content"]: entry["id"] for entry in cut["added_tokens"]}})


def refuse_lost_tokens(vocabulary: Vocabulary, needed: frozenset[int]) -> None:
    """Refuses a vocabulary that lacks a token which a config or the tokenizer names."""
    missing = sorted(needed - vocabulary.new_ids.keys())
    if missing:
        raise ArtifactError(
            f"the plan's vocabulary lacks token {missing[0]}, which the model's configs or its tokenizer need; "
            "make the plan again"
        )


def _check_ids(path: Path, expected: dict[str, int]) -> None:
    """Refuses a tokenizer whose added tokens the library, which numbers them by itself, gives other ids."""
    from tokenizers import Tokenizer

    if Tokenizer.from_file(str(path)).get_vocab() != expected:
        raise InputError(
            "the tokenizer numbers its added tokens in a way that a cut vocabulary cannot keep; use --vocabulary all"
        )
