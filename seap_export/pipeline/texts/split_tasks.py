"""The texts of an export's tasks, and their tokens."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from seap_export.corpus import Sample, Split, Task, split_samples
from seap_export.errors import InputError
from seap_export.families.family import PRUNED_PREFIX
from seap_export.json_file import write_json
from seap_export.pipeline.progress import Progress
from seap_export.pipeline.request.mixtures import Support
from seap_export.pipeline.request.settings import CalibrationSettings
from seap_export.sources.source import Source
from validation.quiet import quiet_transformers

__all__ = ["load_tokenizer", "split_tasks", "tokenize", "tokenizer_folder", "warn_of_texts"]

#: Texts that are tokenized at a time.
_TEXTS = 256


def split_tasks(
    source: Source, tasks: Sequence[Task], settings: CalibrationSettings, support: Support | None = None
) -> dict[str, Split]:
    """Each task's calibration and held-out texts, and those of the support.

    Raises:
        UsageError, InputError: See `split_samples`.
        InputError: The tokenizer is damaged.
    """
    splits, most = {task.name: _split(task, settings, settings.held_out) for task in tasks}, settings.most_tokens
    if support is not None:
        splits[support.task.name] = _split(support.task, settings, 0)
    return splits if most is None else _cut_to_tokens(source, splits, most, settings.max_length)


def warn_of_texts(splits: Mapping[str, Split], progress: Progress) -> None:
    """Says what a user should know about the texts."""
    for split in splits.values():
        if split.notice:
            progress.warn(split.notice)


def _split(task: Task, settings: CalibrationSettings, num_held_out: int) -> Split:
    split = split_samples(
        task.name,
        task.texts(),
        num_samples=settings.samples,
        num_held_out=num_held_out,
        seed=settings.seed,
        most=settings.most_tokens,  # a text has a token at least, or does not count
    )
    return replace(split, notice=task.notice)


def _cut_to_tokens(source: Source, splits: Mapping[str, Split], most: int, max_length: int) -> dict[str, Split]:
    """Leaves out the texts from the one on that would exceed the number of tokens; the first one always stays."""
    with quiet_transformers():
        tokenizer = load_tokenizer(source)
        return {
            task: split.calibrated_on(_within(tokenizer, split, most, max_length)) for task, split in splits.items()
        }


def _within(tokenizer: Any, split: Split, most: int, max_length: int) -> int:
    """The number of calibration texts that have no more than `most` tokens."""
    number = total = 0
    for start in range(0, len(split.calibration), _TEXTS):
        some = split.calibration[start : start + _TEXTS]
        for ids in tokenizer([sample.text for sample in some])["input_ids"]:
            total += min(len(ids), max_length)
            if total > most and number:
                return number
            number += 1
    return number


def tokenize(source: Source, texts: Mapping[str, Sequence[Sample]], max_length: int) -> dict[str, list[list[int]]]:
    """Token ids of each task's texts; a text without a token is left out.

    Raises:
        InputError: The tokenizer is damaged or belongs to another model, or no text of a task has a token.
    """
    token_ids = {}
    with quiet_transformers():
        tokenizer = load_tokenizer(source)
        for task, samples in texts.items():
            sequences = tokenizer([sample.text for sample in samples])["input_ids"]
            token_ids[task] = [ids[:max_length] for ids in sequences if ids]
    for task, sequences in token_ids.items():
        if not sequences:
            raise InputError(f"task '{task}': the tokenizer gives no token for any text; use another corpus")
        largest = max(map(max, sequences))
        if largest >= source.spec.vocab_size:
            raise InputError(
                f"{source.name}: its tokenizer gives token id {largest}, its model has a vocabulary of "
                f"{source.spec.vocab_size}; use the tokenizer that belongs to the model"
            )
    return token_ids


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


def load_tokenizer(source: Source) -> Any:
    """The tokenizer, loaded from the files that the artifacts will contain."""
    from transformers import AutoTokenizer

    with tokenizer_folder(source) as folder:
        try:
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (ImportError, MemoryError):
            raise
        except Exception as error:  # damaged files raise nearly anything, including a bare Exception of `tokenizers`
            reason = " ".join(str(error).split())
            raise InputError(f"{source.name}: its tokenizer cannot be loaded ({reason}); download it again") from error
