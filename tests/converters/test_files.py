"""Files and weights are compared, and nothing is left of a folder that could not be written."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace as Node
from typing import Any

import numpy as np
import pytest
import torch

from converters.comparison import Tolerance, are_as_near, other_numbers, worse_rows
from converters.first_difference import first_difference
from converters.small_files import Content, copies, file_differences, write_files
from converters.whole import whole_or_nothing
from seap_export.errors import EnvironmentFailure, InputError, UsageError

FILES: dict[str, Content] = {"a.json": {"x": {"y": 1, "z": None}}, "b.txt": b"\r\n", "c.txt": None}


def test_what_is_written_does_not_differ(tmp_path: Path) -> None:
    write_files(tmp_path, FILES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.txt"]
    assert copies(tmp_path, "b.txt", "c.txt") == {"b.txt": b"\r\n", "c.txt": None}
    assert list(file_differences(tmp_path, FILES)) == []
    (tmp_path / "a.json").write_text('{"x": {"z": null, "y": 1}}')
    assert list(file_differences(tmp_path, FILES)) == []


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"a.json": '{"x": {"y": 2}, "w": 0}'}, ["a.json: 'w', 'x.y', 'x.z' differ"]),
        ({"b.txt": "\n", "c.txt": ""}, ["b.txt: differs", "c.txt: the model's folder has no such file"]),
        # Python takes the last value, and other readers the first
        ({"a.json": '{"x": {"y": 2, "z": null, "y": 1}}'}, ["a.json: 'y' are given twice"]),
        ({"a.json": '{"x": {"y": true, "z": null}}'}, ["'x.y' differ"]),
        ({"a.json": "{"}, ["a.json: not a readable JSON"]),
        ({"b.txt": None}, ["b.txt: missing"]),
    ],
)
def test_each_file_that_differs_is_one_line(written: dict[str, str | None], said: list[str], tmp_path: Path) -> None:
    write_files(tmp_path, FILES)
    for name, content in written.items():
        (tmp_path / name).unlink() if content is None else (tmp_path / name).write_bytes(content.encode())
    lines = list(file_differences(tmp_path, FILES))
    assert len(lines) == len(said)
    assert [words for words, line in zip(said, lines, strict=True) if words not in line] == []


@pytest.mark.parametrize(
    ("wanted", "given", "place"),
    [
        (Node(a=[1, Node(b=2)]), Node(a=[1, Node(b=3)]), "program.a[1].b is 3, not 2"),
        (Node(a=[1]), Node(a=[1, 2]), "program.a has 2 items, not 1"),
        (Node(a=np.array([1.0, 2.0])), Node(a=np.array([1.0, 3.0])), "program.a[1] is 3.0, not 2.0"),
        (Node(a=1), Node(a=None), "program.a is None, not 1"),
        (Node(a=float("nan"), b=(1, "x")), Node(a=float("nan"), b=(1, "x")), None),
    ],
)
def test_the_first_place_where_two_trees_differ_is_named(wanted: Any, given: Any, place: str | None) -> None:
    assert first_difference(wanted, given) == place


@pytest.mark.parametrize(
    "error", [InputError("damaged"), KeyboardInterrupt(), SystemExit(143), OSError(28, "No space left on device")]
)
def test_a_failure_empties_the_folder_and_is_raised(error: BaseException, tmp_path: Path) -> None:
    def fail() -> None:
        with whole_or_nothing(tmp_path):
            (tmp_path / "model.bin").write_bytes(b"half")
            (tmp_path / "parts").mkdir()
            (tmp_path / "parts" / "1").write_bytes(b"half")
            raise error

    expected = EnvironmentFailure if isinstance(error, OSError) else type(error)
    with pytest.raises(expected) as caught:
        fail()
    assert caught.value is error or f"{tmp_path}" in str(caught.value)
    assert caught.value is error or "No space left on device" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(UsageError, match="notes already exists"), whole_or_nothing(tmp_path):
        pytest.fail("the block is not entered")
    assert (tmp_path / "notes").read_text() == "mine"


def numbers(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_a_tolerance_is_of_the_largest_of_a_block() -> None:
    wanted = numbers(1, 100, 1, 1)
    stored = wanted + numbers(0.5, 0, 0.5, np.nan)
    assert Tolerance(0.01, 2).exceeded(stored, wanted).tolist() == [False, False, True, True]
    assert Tolerance(0.01, 1, tiny=0.6).exceeded(stored, wanted).tolist() == [False, False, False, True]


def test_rounded_weights_may_be_as_far_off_as_the_best() -> None:
    wanted = np.zeros((3, 2), np.float32)
    best = wanted + np.float32(0.5)
    stored = np.stack([-best[0], best[1] * 1.1, numbers(0.5, np.nan)])
    assert are_as_near(stored, best, wanted).tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("dtype", "torch_dtype"), [("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)]
)
def test_a_number_may_be_one_unit_in_its_own_last_place_off(dtype: str, torch_dtype: torch.dtype) -> None:
    """However large others of its tensor are; rounding a row that is 1 % larger gives other numbers."""
    info = torch.finfo(torch_dtype)

    def complaint(wanted: torch.Tensor, stored: torch.Tensor) -> str | None:
        pieces = [(part.to(torch_dtype).float().numpy() for part in (wanted, stored))]
        return other_numbers("x", pieces, dtype)  # type: ignore[arg-type]

    few, many = torch.tensor([1.5, 1e-4, 0.0]), torch.tensor([1000.0]).repeat(64)
    assert complaint(few, few + torch.tensor([info.eps, 0, 0])) is None
    further = torch.tensor([max(2.1 * info.eps, 3e-6), 0, 0])
    assert "differs from the model's in 1 numbers" in str(complaint(few, few + further))
    assert complaint(few, few + torch.tensor([0, 0, info.smallest_normal * info.eps])) is None
    assert complaint(few, few + torch.tensor([0, 0, 1e-7 if dtype != "fp16" else 0])) is None  # beside 1.5
    row = torch.randn(576, generator=torch.Generator().manual_seed(0)) * 0.02
    assert "x" in str(complaint(torch.cat((many, row)), torch.cat((many, row * 1.01))))
    assert "NaN" in str(other_numbers("x", [(numbers(1), numbers(np.inf))], dtype))
    assert other_numbers("x", [(np.array([1]), np.array([2]))], dtype) == "'x' differs from the model's"


def test_a_row_on_other_levels_is_named() -> None:
    """Of 2,000 rows of one block of 32 numbers, those that are a level apart in one number."""
    best = np.zeros((2000, 32), np.float32)
    stored, scales = best.copy(), np.ones((2000, 1), np.float32)
    stored[:, 0] += 0.1
    stored[1500, 3] += 1
    line = worse_rows("x", 2000, lambda rows: (best[rows], stored[rows], scales[rows]))
    assert line == "'x' differs from the model's in 1 rows, for example row 1500"
    assert worse_rows("x", 1500, lambda rows: (best[rows], stored[rows], scales[rows])) is None
