"""Programs of ExecuTorch: kernels and what runners ask for, and the tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from planted.fault import Kind
from planted.formats.planting import DAMAGE, Base, FormatFault, Parts, Plant, Subject, added, replaced
from support.formats.written import WrittenModel
from support.product import EXECUTORCH_PROGRAM as PROGRAM
from support.product import read_spec

from converters.executorch.decoder import decoder_program, decoder_weights
from converters.executorch.program import Program
from converters.executorch.writer import write_program
from converters.read_back import open_plain
from seap_export.model.sources.config import end_tokens

_NUMBERS: dict[str, np.dtype[Any]] = {"fp32": np.dtype("<f4"), "int8": np.dtype("i1"), "int4": np.dtype("u1")}
_SCALES: dict[str, np.dtype[Any]] = {"int8": np.dtype("<f4"), "int4": np.dtype(ml_dtypes.bfloat16)}


def _holds(base: Base, name: str) -> frozenset[str]:
    kinds = {weight.name: weight.kind for weight in decoder_weights(base.spec, base.precision)}
    return frozenset({"float" if kinds[name] == "fp32" else "levels"})


@cache
def _program(source: Path, precision: str) -> Program:
    return decoder_program(read_spec(source), precision, [2])


def _open(made: WrittenModel, name: str) -> Parts:
    program = _program(made.source, made.format.precision)
    weight, offsets, path = program.weights[name], program.offsets(), made.folder / PROGRAM
    dtype, rows = _NUMBERS[weight.kind], weight.shape[0]
    shape = (rows,) if len(weight.shape) == 1 else (rows, weight.size // rows // dtype.itemsize)
    parts = {"numbers": np.memmap(path, dtype, "r+", offsets[name], shape)}
    if weight.kind in _SCALES:
        scale = _SCALES[weight.kind]
        whole = (rows, weight.scale_size // rows // scale.itemsize)
        raw = np.memmap(path, np.uint8, "r+", offsets[weight.scale_name], weight.scale_size)
        parts["scales"] = raw.view(scale).reshape(whole)
    return parts


def program(change: Callable[[Program], object]) -> Plant:
    """Writes the program again, after a change, with the numbers of the model."""

    def plant(made: WrittenModel) -> None:
        spec, source = read_spec(made.source), made.source
        changed = decoder_program(spec, made.format.precision, end_tokens(source))
        change(changed)
        plain = open_plain(source, spec)
        write_program(made.folder / PROGRAM, changed, lambda name: plain.read([name])[name])

    return plant


def _kernels(changed: Program, name: str) -> Iterator[Any]:
    index = next(number for number, (kernel, _) in enumerate(changed._operators) if kernel == name)
    return (one for one in changed._instructions if getattr(one, "op_index", None) == index)


def _not_causal(changed: Program) -> None:
    next(_kernels(changed, "llama::custom_sdpa")).args[6] = changed.scalar("Bool", False)


def _keys_and_values(changed: Program) -> None:
    arguments = next(_kernels(changed, "llama::custom_sdpa")).args
    arguments[1], arguments[2] = arguments[2], arguments[1]


_OWN: tuple[tuple[Kind, str, str, Plant], ...] = (
    ("attribute", "int4", "attention sees what comes", program(_not_causal)),
    ("wiring", "int8", "keys and values swapped", program(_keys_and_values)),
    ("metadata", "int4", "other bits by name", program(lambda changed: changed.tell("get_weight_bits", 8))),
    ("wiring", "int8", "another kernel", replaced(PROGRAM, "aten::select_copy", "aten::select_cope")),
    ("tokenizer", "int8", "a config of the tokenizer", added("tokenizer_config.json", b'{"bos_token": "x"}')),
)
SUBJECT = Subject(
    "executorch",
    {
        "fp32": Base("gpt2-tied", "fp32"),
        "int8": Base("qwen3-biases", "int8"),
        "int4": Base("llama-biases", "int4"),
    },
    _open,
    _holds,
    PROGRAM,
    tuple(FormatFault(kind, f"{base}: {id}", base, plant, (DAMAGE,)) for kind, base, id, plant in _OWN),
    # the apps that run it have their own
    frozenset({"another chat template"}),
)
