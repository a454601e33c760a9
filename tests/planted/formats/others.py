"""What a format writes of another model, config or tokenizer, in the place of what it writes of this one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from planted.fault import Kind
from planted.formats.planting import DAMAGE, PARITY, FormatFault, Plant, Subject
from support.editing import edit_json, edit_weights
from support.formats.written import WrittenModel
from support.variations import micro_config

Config = dict[str, Any]
Change = Callable[[Path], object]


def written_from(change: Change, precision: str | None = None) -> Plant:
    """What the format writes of a changed model folder, or in another precision."""

    def plant(made: WrittenModel) -> None:
        source = Path(shutil.copytree(made.source, made.folder.parent / "other"))
        change(source)
        shutil.rmtree(made.folder)
        made.folder.mkdir()
        form = made.format if precision is None else type(made.format)(precision)
        form.write(source, made.folder, lambda layer: None)

    return plant


def _holder(config: Config, key: str) -> Config | None:
    """The dict that has a key."""
    return next((one for one in (config, config.get("rope_parameters") or {}) if one.get(key) is not None), None)


def with_value(key: str, change: Callable[[Any], Any]) -> Change:
    """Another value in config.json."""

    def edit(config: Config) -> None:
        holder = _holder(config, key)
        assert holder is not None
        holder[key] = change(before := holder[key])
        assert holder[key] != before

    return lambda folder: edit_json(folder / "config.json", edit)


def with_bias(layer: int, is_there: bool) -> Change:
    """An output of an MLP that gets a bias, or loses it."""

    def change(folder: Path) -> None:
        edit_json(
            folder / "config.json",
            lambda config: config["per_layer_config"].setdefault(str(layer), {}).update(down_proj_bias=is_there),
        )
        name = f"model.layers.{layer}.mlp.down_proj"

        def edit(tensors: dict[str, torch.Tensor]) -> None:
            if is_there:
                tensors[f"{name}.bias"] = torch.ones(len(tensors[f"{name}.weight"]))
            else:
                del tensors[f"{name}.bias"]

        edit_weights(folder, edit)

    return change


def _of_file(name: str, change: Callable[[Config], object]) -> Change:
    return lambda folder: edit_json(folder / name, change)


def _two_tokens(values: Config) -> None:
    words = values["model"]["vocab"]
    one, other = list(words)[-2:]
    words[one], words[other] = words[other], words[one]


def _bos_before_texts(values: Config) -> None:
    ids = {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
    single = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    values["post_processor"] = {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": ids}


def _flipped(tensors: dict[str, torch.Tensor]) -> None:
    tensors.update({name: tensor.flip(0) for name, tensor in tensors.items()})


#: Each is planted in the first artifact whose config has the key.
_COMPUTATIONS: tuple[tuple[Kind, str, Callable[[Any], Any]], ...] = (
    ("config", "rope_theta", lambda theta: 2 * theta),
    ("config", "num_experts_per_tok", lambda count: count - 1),
    ("constant", "rms_norm_eps", lambda epsilon: 10 * epsilon),
    ("attribute", "hidden_act", lambda _: "gelu_pytorch_tanh"),
)
_BIASES: tuple[tuple[Kind, str, Change], ...] = (
    ("wiring", "a bias is not added", with_bias(1, is_there=False)),
    ("weight", "a bias that the model lacks", with_bias(0, is_there=True)),
)
_TOKENIZERS: tuple[tuple[str, Change], ...] = (
    ("two tokens swapped", _of_file("tokenizer.json", _two_tokens)),
    ("BOS before texts", _of_file("tokenizer.json", _bos_before_texts)),
    ("another chat template", _of_file("tokenizer_config.json", lambda config: config.update(chat_template="buy"))),
    ("a further end", _of_file("generation_config.json", lambda values: values.update(eos_token_id=[2, 40]))),
)


def other_faults(subject: Subject) -> Iterator[FormatFault]:
    """The files that are written from a changed model folder; each change once."""
    bases, last = list(subject.bases), list(subject.bases)[-1]
    configs = {name: micro_config(**base.values) for name, base in subject.bases.items()}

    def fault(kind: Kind, base: str, id: str, plant: Plant, *codes: int) -> FormatFault:
        return FormatFault(kind, f"{base}: {id}", base, plant, codes or (DAMAGE, PARITY))

    for kind, key, change in _COMPUTATIONS:
        found = next((name for name, config in configs.items() if _holder(config, key)), None)
        if found is not None and key not in subject.lacks:
            yield fault(kind, found, f"another {key}", written_from(with_value(key, change)))
    uneven = next(name for name, config in configs.items() if _may_lose_a_bias(config))
    for kind, id, edit in _BIASES:
        if id not in subject.lacks:
            yield fault(kind, uneven, id, written_from(edit))
    for index, (id, edit) in enumerate(one for one in _TOKENIZERS if one[0] not in subject.lacks):
        yield fault("tokenizer", bases[index % len(bases)], id, written_from(edit), DAMAGE)
    flipped = written_from(lambda folder: edit_weights(folder, _flipped))
    yield fault("weight", last, "weights of another model", flipped, PARITY)
    other = subject.bases[bases[0]].precision
    yield fault("bits", last, f"written in {other}", written_from(lambda folder: None, other))


def _may_lose_a_bias(config: Config) -> bool:
    """Whether it is one layer's that says it has a bias, in names that `with_bias` knows."""
    return "per_layer_config" in config and not config.get("mlp_bias") and "rms_norm_eps" in config
