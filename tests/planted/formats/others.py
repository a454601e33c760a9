"""What a format writes of another model, config or tokenizer, in the place of what it writes of this one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planted.formats.planting import DAMAGE, PARITY, FormatFault, Plant, Subject
from support.editing import edit_json, edit_weights
from support.formats.written import WrittenModel
from support.variations import micro_config

Config = dict[str, Any]
_Change = Callable[[Path], object]


@dataclass(frozen=True)
class _Other:
    """Another model with as many weights.

    Attributes:
        id: What differs.
        change: Changes the model's folder.
        applies: Whether a config can be changed so.
    """

    id: str
    change: _Change
    applies: Callable[[Config], bool] = lambda config: True


def _config(change: Callable[[Config], object]) -> _Change:
    return lambda folder: edit_json(folder / "config.json", change)


def _times(key: str, factor: float, without: str = "") -> _Other:
    """Another number in config.json, where there is one, and no other key that says it."""

    def change(config: Config) -> None:
        holder = config if config.get(key) is not None else config["rope_parameters"]
        holder[key] = type(holder[key])(holder[key] * factor)

    def applies(config: Config) -> bool:
        value = config.get(key, (config.get("rope_parameters") or {}).get(key))
        return isinstance(value, int | float) and not isinstance(value, bool) and without not in config

    return _Other(f"{key} times {factor}", _config(change), applies)


def _other(key: str, value: Any, applies: Callable[[Config], bool] | None = None) -> _Other:
    return _Other(
        f"{key} is {value}",
        _config(lambda config: config.update({key: value})),
        applies or (lambda config: config.get(key) not in (None, value)),
    )


COMPUTATIONS: tuple[_Other, ...] = (
    _times("rope_theta", 2.0),
    _times("layer_norm_epsilon", 10),
    _other("num_experts_per_tok", 1),
)


def _tokenizer(change: Callable[[Config], object]) -> _Change:
    return lambda folder: edit_json(folder / "tokenizer.json", change)


def _settings(change: Callable[[Config], object]) -> _Change:
    return lambda folder: edit_json(folder / "tokenizer_config.json", change)


def _two_tokens(values: Config) -> None:
    words = values["model"]["vocab"]
    one, other = list(words)[-2:]
    words[one], words[other] = words[other], words[one]


TOKENIZERS: tuple[tuple[str, _Change], ...] = (
    ("two tokens swapped", _tokenizer(_two_tokens)),
    (
        "another chat template",
        _settings(lambda config: config.update(chat_template=config["chat_template"].replace(": ", ":"))),
    ),
    (
        "a further end of text",
        lambda folder: edit_json(
            folder / "generation_config.json", lambda values: values.update(eos_token_id=[2, 40])
        ),
    ),
)


def other_faults(subject: Subject) -> Iterator[FormatFault]:
    """The files that are written from a changed model folder, with the weights of the right one; each change once."""
    bases = list(subject.bases)
    configs = {name: micro_config(**base.values) for name, base in subject.bases.items()}
    for other in COMPUTATIONS:
        base = next((name for name, config in configs.items() if other.applies(config)), None)
        if base is not None:
            yield FormatFault("config", f"{base}: {other.id}", base, _written_from(other.change), (DAMAGE, PARITY))
    for index, (id, change) in enumerate(one for one in TOKENIZERS if one[0] not in subject.lacks):
        base = bases[index % len(bases)]
        yield FormatFault("tokenizer", f"{base}: {id}", base, _written_from(change), (DAMAGE,))
    yield FormatFault(
        "weight", f"{bases[-1]}: weights of another model", bases[-1], _written_from(_other_weights), (PARITY,)
    )


def _other_weights(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors.update({name: tensor.flip(0) for name, tensor in tensors.items()}))


def _written_from(change: _Change) -> Plant:
    def plant(made: WrittenModel) -> None:
        source = Path(shutil.copytree(made.source, made.folder.parent / "other"))
        change(source)
        shutil.rmtree(made.folder)
        made.folder.mkdir()
        made.format.write(source, made.folder, lambda layer: None)

    return plant
