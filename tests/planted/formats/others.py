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


def _rope(**values: Any) -> _Change:
    return _config(lambda config: config["rope_scaling"].update(values))


def _has_rope(kind: str) -> Callable[[Config], bool]:
    return lambda config: (config.get("rope_scaling") or {}).get("rope_type") == kind


def _rolled_layers(config: Config) -> None:
    kinds = config["layer_types"]
    config["layer_types"] = [*kinds[1:], kinds[0]]


def _fewer_heads(config: Config) -> None:
    """Heads twice as wide, and half as many."""
    config.update(head_dim=32, num_attention_heads=3)


COMPUTATIONS: tuple[_Other, ...] = (
    _times("rms_norm_eps", 10, without="norm_eps"),
    _times("layer_norm_epsilon", 10),
    _times("norm_eps", 10),
    _times("rope_theta", 2.0),
    _times("rope_local_base_freq", 2.0),
    _times("query_pre_attn_scalar", 2),
    _times("attn_logit_softcapping", 0.5),
    _times("final_logit_softcapping", 0.5),
    _times("sliding_window", 2),
    _times("attention_multiplier", 2.0),
    _times("embedding_multiplier", 0.5),
    _times("residual_multiplier", 0.5),
    _times("logits_scaling", 2.0),
    _times("routed_scaling_factor", 2.0),
    _times("max_position_embeddings", 0.5),
    _Other("another factor of llama3", _rope(factor=4.0), _has_rope("llama3")),
    _Other("another factor of the linear rotation", _rope(factor=2.0), _has_rope("linear")),
    _Other("other bounds of yarn", _rope(factor=2.0), _has_rope("yarn")),
    _Other(
        "windows in other layers",
        _config(_rolled_layers),
        lambda config: (
            config.get("sliding_window") is not None
            and set(config.get("layer_types") or ()) == {"full_attention", "sliding_attention"}
        ),
    ),
    _other("activation_function", "relu"),
    _other("partial_rotary_factor", 0.25),
    _other("num_experts_per_tok", 1),
    _other("norm_topk_prob", True, lambda config: "num_experts" in config),
)


def _tokenizer(change: Callable[[Config], object]) -> _Change:
    return lambda folder: edit_json(folder / "tokenizer.json", change)


def _settings(change: Callable[[Config], object]) -> _Change:
    return lambda folder: edit_json(folder / "tokenizer_config.json", change)


def _ends(token: Any) -> _Change:
    return lambda folder: edit_json(
        folder / "generation_config.json", lambda values: values.update(eos_token_id=token)
    )


def _two_tokens(values: Config) -> None:
    words = values["model"]["vocab"]
    one, other = list(words)[-2:]
    words[one], words[other] = words[other], words[one]


def _merges(change: Callable[[list[Any]], object]) -> _Change:
    return _tokenizer(lambda values: change(values["model"]["merges"]))


def _begins_with_bos(values: Config) -> None:
    bos = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    values["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [bos, text],
        "pair": [bos, text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }


def _not_special(values: Config) -> None:
    next(token for token in values["added_tokens"] if token["content"] == "</s>")["special"] = False


def _a_further_token(values: Config) -> None:
    number = len(values["model"]["vocab"])
    values["added_tokens"].append({**values["added_tokens"][0], "id": number, "content": "<tool>"})
    values["model"]["vocab"]["<tool>"] = number


TOKENIZERS: tuple[tuple[str, _Change], ...] = (
    ("two tokens swapped", _tokenizer(_two_tokens)),
    ("a merge is missing", _merges(lambda merges: merges.pop(3))),
    ("two merges in another order", _merges(lambda merges: merges.insert(0, merges.pop()))),
    ("an end token that is not special", _tokenizer(_not_special)),
    ("a further special token", _tokenizer(_a_further_token)),
    ("texts begin with BOS", _tokenizer(_begins_with_bos)),
    (
        "another chat template",
        _settings(lambda config: config.update(chat_template=config["chat_template"].replace(": ", ":"))),
    ),
    ("a chat template that adds a turn", _settings(lambda config: config.update(chat_template="user: buy " * 2))),
    ("no chat template", _settings(lambda config: config.pop("chat_template"))),
    (
        "another end of text",
        lambda folder: edit_json(folder / "generation_config.json", lambda values: values.update(eos_token_id=40)),
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
            yield FormatFault(f"{base}: {other.id}", base, _written_from(other.change), (DAMAGE, PARITY))
    for index, (id, change) in enumerate(one for one in TOKENIZERS if one[0] not in subject.lacks):
        base = bases[index % len(bases)]
        yield FormatFault(f"{base}: {id}", base, _written_from(change), (DAMAGE,))
    for base in bases:
        yield FormatFault(f"{base}: weights of another model", base, _written_from(_other_weights), (PARITY,))


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
