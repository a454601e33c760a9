"""Faults planted in good programs: each is found without running them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.formats.written import damages_by_byte
from support.models import write_micro_model
from support.product import read_spec

from converters.executorch.decoder import decoder_program
from converters.executorch.format import ExecutorchFormat
from converters.executorch.stored_program import PROGRAM

pytestmark = pytest.mark.needs("executorch")
Copied = Callable[[str], Path]
Fault = Callable[[Path, Path, str], None]
LAYER = "model.layers.2"
NUMBERS = {"fp32": "float32", "int8": "int8", "int4": "uint8"}


def numbers(name: str, edit: Callable[[np.ndarray], None], dtype: str | None = None) -> Fault:
    """Changes the stored numbers of a tensor, or its scales, by rows."""

    def plant(model: Path, folder: Path, precision: str) -> None:
        program = decoder_program(read_spec(model), precision, [2])
        weight = program.weights[name.removesuffix(".scales")]
        size = weight.scale_size if name.endswith(".scales") else weight.size
        whole, start = bytearray((folder / PROGRAM).read_bytes()), program.offsets()[name]
        stored = np.frombuffer(whole[start : start + size], dtype or NUMBERS[weight.kind]).copy()
        stored = stored.reshape(weight.shape[0], -1)
        edit(stored)
        whole[start : start + size] = stored.tobytes()
        (folder / PROGRAM).write_bytes(whole)

    return plant


def swapped(rows: np.ndarray) -> None:
    rows[[0, 1]] = rows[[1, 0]]


def negated(numbers: np.ndarray) -> None:
    numbers *= -1


def nibbles_swapped(rows: np.ndarray) -> None:
    rows[3] = rows[3] << 4 | rows[3] >> 4


def one_level(rows: np.ndarray) -> None:
    rows[3] += np.where(rows[3] < 100, 3, -3).astype(rows.dtype)


def first(value: float) -> Callable[[np.ndarray], None]:
    def edit(rows: np.ndarray) -> None:
        rows[0, 0] = value

    return edit


def doubled(bfloat16: np.ndarray) -> None:
    bfloat16[0] += 1 << 7


@pytest.mark.parametrize(
    ("precision", "fault"),
    [
        ("fp32", numbers(f"{LAYER}.self_attn.q_proj.weight", swapped)),
        ("int4", numbers(f"{LAYER}.self_attn.q_proj.weight", swapped)),
        ("int4", numbers(f"{LAYER}.self_attn.q_proj.weight", nibbles_swapped)),
        ("int4", numbers(f"{LAYER}.self_attn.q_proj.weight.scales", doubled, "uint16")),
        ("int8", numbers("model.layers.1.mlp.down_proj.bias", negated)),
        ("int8", numbers(f"{LAYER}.self_attn.k_norm.weight", negated)),
        ("int8", numbers("model.embed_tokens.weight", one_level)),
        ("fp32", numbers("lm_head.weight", first(np.nan))),
        ("int8", numbers(f"{LAYER}.mlp.up_proj.weight.scales", first(0.5), "float32")),
        ("int8", numbers(f"{LAYER}.mlp.up_proj.weight.scales", first(np.nan), "float32")),
    ],
)
def test_it_is_a_difference(qwen3: Path, copied: Copied, precision: str, fault: Fault) -> None:
    folder = copied(precision)
    fault(qwen3, folder, precision)
    (line,) = ExecutorchFormat(precision).differences(qwen3, folder)
    assert line.startswith("'model.") or "lm_head" in line
    assert "\n" not in line
    assert list(ExecutorchFormat(precision).damages(qwen3, folder)) == []


def truncated(folder: Path) -> None:
    (folder / PROGRAM).write_bytes((folder / PROGRAM).read_bytes()[:-64])


def empty(folder: Path) -> None:
    (folder / PROGRAM).write_bytes(b"")


def missing(folder: Path) -> None:
    (folder / PROGRAM).unlink()


def another_file(folder: Path) -> None:
    (folder / PROGRAM).write_bytes(b"XXXXET12" + bytes(1000))


def another_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace('"cat"', '"the"', 1))


def replaced(old: bytes, new: bytes) -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        whole = (folder / PROGRAM).read_bytes()
        assert old in whole
        (folder / PROGRAM).write_bytes(whole.replace(old, new, 1))

    return plant


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (truncated, "truncated"),
        (empty, "damaged"),
        (missing, "missing"),
        (another_file, "no program"),
        (another_tokenizer, "tokenizer"),
        (replaced(np.float32(1e-5).tobytes(), np.float32(1e-2).tobytes()), "another program"),
        (replaced(np.float32(0.25).tobytes(), np.float32(0.5).tobytes()), "another program"),
        (replaced(b"get_eos_ids", b"get_bos_ids"), "another program"),
    ],
)
def test_it_is_damage(qwen3: Path, copied: Copied, fault: Callable[[Path], None], named: str) -> None:
    folder = copied("int8")
    fault(folder)
    (line,) = ExecutorchFormat("int8").damages(qwen3, folder)
    assert line.startswith(str(folder))
    assert named in line
    assert "export again" in line
    assert "\n" not in line


def test_random_bytes_are_refused_in_one_line(qwen3: Path, copied: Copied) -> None:
    """Wherever a byte of the header or of the flatbuffer is another one, nothing else is raised."""
    folder, chance = copied("int8"), np.random.default_rng(0)
    positions = [*chance.integers(0, 64, 8), *chance.integers(64, 8000, 16)]
    for lines in damages_by_byte(ExecutorchFormat("int8"), qwen3, folder / PROGRAM, positions):
        assert lines
        assert all("\n" not in line for line in lines)


def test_a_program_of_another_model_is_damage(made: Callable[[str], Path], tmp_path: Path) -> None:
    model = write_micro_model(tmp_path / "hf", model_type="qwen3")
    assert any("another program" in line for line in ExecutorchFormat("int8").damages(model, made("int8")))
