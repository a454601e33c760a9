"""Faults planted in good bundles: each is found without running them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.formats.written import damages_by_byte
from support.models import write_micro_model

from converters.litert.bundle import BUNDLE, METADATA, PROGRAM, TOKENIZER, Bundle
from converters.litert.format import LitertFormat
from converters.litert.stored_program import StoredProgram

pytestmark = pytest.mark.needs("litert")
Copied = Callable[[str], Path]
Fault = Callable[[Path], None]
LAYER = "model.layers.2"


def numbers(name: str, edit: Callable[[np.ndarray], None]) -> Fault:
    """Changes the stored numbers of a tensor."""

    def plant(folder: Path) -> None:
        entry = StoredProgram(Bundle(folder))._entries[name]
        start = Bundle(folder).span(PROGRAM).start + entry.offset
        stored = np.memmap(folder / BUNDLE, entry.dtype, "r+", start, entry.shape)
        edit(stored)
        stored.flush()

    return plant


def replaced(kind: str, old: bytes, new: bytes, count: int = 1) -> Fault:
    """Changes bytes of a section, the first ones that are so."""

    def plant(folder: Path) -> None:
        span, whole = Bundle(folder).span(kind), (folder / BUNDLE).read_bytes()
        section = whole[span]
        assert old in section
        (folder / BUNDLE).write_bytes(whole[: span.start] + section.replace(old, new, count) + whole[span.stop :])

    return plant


def swapped(rows: np.ndarray) -> None:
    rows[[0, 1]] = rows[[1, 0]]


def negated(numbers: np.ndarray) -> None:
    numbers *= -1


def one_level(numbers: np.ndarray) -> None:
    numbers[3] += np.where(numbers[3] < 100, 3, -3).astype(numbers.dtype)


def a_nan(numbers: np.ndarray) -> None:
    numbers.flat[0] = np.nan


def scale_of(name: str, value: float) -> Fault:
    """Changes the first scale of a matrix."""

    def plant(folder: Path) -> None:
        scales = StoredProgram(Bundle(folder))._entries[name].scales
        assert scales is not None
        replaced(PROGRAM, scales[:4].tobytes(), np.float32([value, *scales[1:4]]).tobytes())(folder)

    return plant


@pytest.mark.parametrize(
    ("precision", "fault"),
    [
        ("fp32", numbers(f"{LAYER}.self_attn.q_proj.weight", swapped)),
        ("int8", numbers(f"{LAYER}.self_attn.q_proj.weight", swapped)),
        ("int8", numbers("model.layers.1.mlp.down_proj.bias", negated)),
        ("int8", numbers(f"{LAYER}.self_attn.k_norm.weight", negated)),
        ("int8", numbers("model.embed_tokens.weight", one_level)),
        ("fp32", numbers("lm_head.weight", a_nan)),
        ("int8", scale_of(f"{LAYER}.mlp.up_proj.weight", 0.5)),
        ("int8", scale_of(f"{LAYER}.mlp.up_proj.weight", float("nan"))),
    ],
)
def test_it_is_a_difference(qwen3: Path, copied: Copied, precision: str, fault: Fault) -> None:
    folder = copied(precision)
    fault(folder)
    (line,) = LitertFormat(precision).differences(qwen3, folder)
    assert line.startswith("'model.") or "lm_head" in line
    assert "\n" not in line


def truncated(folder: Path) -> None:
    whole = (folder / BUNDLE).read_bytes()
    (folder / BUNDLE).write_bytes(whole[:-64])


def missing(folder: Path) -> None:
    (folder / BUNDLE).unlink()


def another_file(folder: Path) -> None:
    (folder / BUNDLE).write_bytes(b"LITERTLX" + bytes(1000))


def another_tokenizer(folder: Path) -> None:
    span, whole = Bundle(folder).span(TOKENIZER), bytearray((folder / BUNDLE).read_bytes())
    text = zlib.decompress(whole[span][8:]).replace(b'"cat"', b'"the"')
    packed = (len(text).to_bytes(8, "little") + zlib.compress(text)).ljust(span.stop - span.start, b"\0")
    whole[span] = packed[: span.stop - span.start]
    (folder / BUNDLE).write_bytes(whole)


def another_epsilon(folder: Path) -> None:
    replaced(PROGRAM, struct.pack("<f", 1e-5), struct.pack("<f", 1e-2))(folder)


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (truncated, "truncated"),
        (missing, "missing"),
        (another_file, "not a file of LiteRT-LM"),
        (another_tokenizer, "tokenizer"),
        (replaced(METADATA, b"\n\x01\x02", b"\n\x01\x03"), "end tokens"),
        (another_epsilon, "program"),
        (replaced(PROGRAM, b"kv_cache_k_0", b"kv_cache_v_0"), "program"),
    ],
)
def test_it_is_damage(qwen3: Path, copied: Copied, fault: Fault, named: str) -> None:
    folder = copied("int8")
    fault(folder)
    (line,) = LitertFormat("int8").damages(qwen3, folder)
    assert line.startswith(str(folder))
    assert named in line
    assert line.endswith("export again")
    assert "\n" not in line


def test_random_bytes_are_refused_in_one_line(qwen3: Path, copied: Copied) -> None:
    """Wherever a byte of the header or of the flatbuffer is another one, nothing else is raised."""
    folder, chance = copied("int8"), np.random.default_rng(0)
    start = Bundle(folder).span(PROGRAM).start
    positions = [*chance.integers(8, 400, 6), *chance.integers(start, start + 400, 6)]
    for lines in damages_by_byte(LitertFormat("int8"), qwen3, folder / BUNDLE, positions):
        assert all("\n" not in line for line in lines)


def test_a_bundle_of_another_model_is_damage(made: Callable[[str], Path], tmp_path: Path) -> None:
    model = write_micro_model(tmp_path / "hf", model_type="qwen3")
    assert any(
        "another program" in line or "missing" in line for line in LitertFormat("int8").damages(model, made("int8"))
    )
