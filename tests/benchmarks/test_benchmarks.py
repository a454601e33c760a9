"""The commands that measure start and say what they take, and a model that one writes is one that others measure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from support.product import OnnxForm, PrecisionName, choose_precision, convert_folder, open_source

from benchmarks.__main__ import NAMES, benchmarks
from benchmarks.shapes import SHAPES


@pytest.mark.parametrize("name", NAMES)
def test_it_starts(name: str) -> None:
    done = CliRunner().invoke(benchmarks, [name, "--help"], catch_exceptions=False)
    assert done.exit_code == 0
    assert f" {name} " in done.output.splitlines()[0]


def test_a_random_model_has_the_shape_of_its_name_and_is_measured(tmp_path: Path) -> None:
    sizes = {"layers": 2, "hidden": 64, "heads": 4, "kv-heads": 2, "neurons": 96, "vocabulary": 300}
    words = [word for name, size in sizes.items() for word in (f"--{name}", str(size))]
    for folder, seed in (("own", "1"), ("same", "1"), ("other", "2")):
        command = ["random_model", "llama-3.2-1b", str(tmp_path / folder), *words, "--seed", seed]
        CliRunner().invoke(benchmarks, command, catch_exceptions=False)
    own, same, other = (open_source(str(tmp_path / folder)) for folder in ("own", "same", "other"))
    assert own.digest == same.digest != other.digest
    assert {tensor.dtype for tensor in own.read_layer(1).values()} == {torch.bfloat16}
    assert len(list((tmp_path / "own").glob("model-*-of-00003.safetensors"))) == 3
    config = json.loads((tmp_path / "own" / "config.json").read_text("utf-8"))
    assert (config["num_hidden_layers"], config["num_key_value_heads"], config["tie_word_embeddings"]) == (2, 2, True)
    names: tuple[PrecisionName, ...] = ("int8", "w8a8")
    for name in names:
        (tmp_path / name).mkdir()
        convert_folder(tmp_path / "own", tmp_path / name, OnnxForm(choose_precision(name), logits="last"))
    command = ["prompt_table", *(str(tmp_path / name) for name in names), "--tokens", "9", "--steps", "2"]
    done = CliRunner().invoke(benchmarks, [*command, "--rounds", "2"], catch_exceptions=False)
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in done.stdout.splitlines()[2:]]
    assert [row[0] for row in rows] == list(names)
    assert (rows[0][2], rows[0][4]) == ("1.00", "1.00")
    assert all(row[1].endswith(" ms") and row[5].endswith(" MB") for row in rows)


@pytest.mark.parametrize(("name", "parameters"), [("llama-3.2-1b", 1_235_814_400), ("llama-2-7b", 6_738_415_616)])
def test_the_shapes_are_those_of_the_model_cards(name: str, parameters: int) -> None:
    assert SHAPES[name].spec.num_parameters() == parameters


def test_bad_input_is_one_line_and_its_exit_code(tmp_path: Path) -> None:
    done = CliRunner().invoke(benchmarks, ["talking_mixture", "./none", str(tmp_path / "out"), "--text", "a=a.txt"])
    assert (done.exit_code, done.output.count("\n"), done.output.startswith("Error: ./none: no such")) == (2, 1, True)
