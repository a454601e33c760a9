"""Settings files: a whole export in one file, what wins over what, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import pytest
from support.exports import Run
from support.option_pages import pages
from support.product import ExportRequest, open_recipe

from seap_export.api.export import ExportOptions
from seap_export.cli.config import settings_of
from seap_export.cli.main import main
from seap_export.common.options import part
from seap_export.pruning.plan.recipes import shipped_recipes

ROOT = Path(__file__).parents[3]
REQUIRED = ("m", "--task", "a=a.jsonl", "--ratio", "0.2", "--out", "out")
#: Every setting in a file, each with another value than its default.
FILE = """\
model = "m"
ratio = [0.3, 0.4]
general = true
recipe = "mine.toml"
layout = "uniform"
vocabulary = 20000
calibration_tokens = 4000
support = "a.jsonl:0.4"
answers = "model"
answer_tokens = 100
out = "made"
format = ["hf", "onnx"]
precision = "int4"
logits = "last"
quality = false
speed = false
device = "cpu"
memory = "2GiB"
provider = "cpu"
threads = 1
cluster = "local"
samples = 20
held_out = 6
general_text = "a.jsonl"
seed = 3
max_length = 64
batch_tokens = 256
router = false
rounding = "nearest"
activations = "fp16"
block_size = 64
asymmetric = true
float_embeddings = true
dialect = "fused"
limits = "limits.toml"
decode_steps = 3
prompts = 2
long_tokens = 100
task = { a = "a.jsonl", b = "b.jsonl" }
weight = { b = 3 }

[mix]
x = { a = 2, b = 1 }
y = "a:1,b:5"
"""
SAME = (
    "m", "--ratio", "0.3", "--ratio", "0.4", "--general", "--recipe", "mine.toml", "--layout", "uniform",
    "--calibration-tokens", "4000", "--support", "a.jsonl:0.4", "--answers", "model", "--vocabulary", "20000",
    "--out", "made", "--precision", "int4", "--logits", "last", "--threads", "1",
    "--format", "hf", "--format", "onnx",
    "--device", "cpu", "--memory", "2GiB", "--cluster", "local", "--no-quality", "--no-speed",
    "--task", "a=a.jsonl", "--task", "b=b.jsonl",
    *(word for setting in (
        "samples=20", "held_out=6", "seed=3", "max_length=64", "answer_tokens=100", "batch_tokens=256", "router=false",
        "activations=fp16", "rounding=nearest",
        "block_size=64", "asymmetric=true", "float_embeddings=true", "dialect=fused", "limits=limits.toml",
        "decode_steps=3", "prompts=2", "long_tokens=100", "general_text=a.jsonl", "weight.b=3",
        "mix.x={ a = 2, b = 1 }", "mix.y=a:1,b:5",
    ) for word in ("--set", setting)),
)  # fmt: skip


@pytest.fixture
def home(work: Path) -> Path:
    """The current folder, with a recipe and limits beside the inputs."""
    (work / "mine.toml").write_text('score = "wifv"\ncompensation = "none"\nalign = 8\n')
    (work / "limits.toml").write_text("[int4]\nmean_kl = 0.5\n")
    return work


def values_of(*arguments: object) -> dict[str, Any]:
    """The values of all parameters of an export."""
    command = main.get_command(click.Context(main), "export")
    assert command is not None
    return dict(command.make_context("export", [str(argument) for argument in arguments]).params)


def request_of(values: dict[str, Any]) -> ExportRequest:
    of_the_command = {"as_json", "quiet"}
    given = {name: value for name, value in values.items() if name not in of_the_command}
    return part(ExportRequest, ExportOptions(**given))


@pytest.mark.parametrize(
    ("arguments", "align", "group_tolerance"),
    [
        ([], 16, 0.0),
        (["--provider", "cuda"], 64, 0.05),
        (["--provider", "cuda", "--precision", "int8", "--set", "block_size=128"], 128, 0.05),
        (["--provider", "cuda", "--set", "dialect=standard"], 64, 0.0),  # its attention has no such kernel
        (["--provider", "cuda", "--recipe", "mine.toml"], 8, 0.05),
        (["--format", "gguf:f16"], 16, 0.0),
        (["--format", "onnx:int4", "--format", "gguf:q8_0", "--format", "mlx:8bit"], 64, 0.0),
    ],
)
def test_the_plan_suits_the_kernels_of_the_form_unless_the_recipe_says_otherwise(
    home: Path, arguments: list[str], align: int, group_tolerance: float
) -> None:
    """Rows that are not whole blocks are stored in more bits, which takes more space and was not asked for."""
    settings = request_of(values_of(*REQUIRED, *arguments)).plan
    assert (settings.align, settings.group_tolerance) == (align, group_tolerance)


def test_a_file_gives_what_the_command_line_gives(home: Path) -> None:
    (home / "export.toml").write_text(FILE)
    from_file, expected = values_of("--config", "export.toml"), values_of(*SAME)
    assert from_file == expected
    assert from_file["mix"] == ("x=a:2,b:1", "y=a:1,b:5")
    defaults = values_of(*REQUIRED)
    of_a_run = {"as_json", "quiet", "force", "dry_run"}
    # others than the defaults contradict the rest of the file
    only_one_value = {"provider", "dialect", "model", "target_size", "target_decode_speedup", "max_kl"}
    only_one_value |= {"min_accuracy_retained", "target_first_token"}
    same = {name for name in from_file if from_file[name] == defaults[name]}
    assert same - of_a_run - only_one_value == {"threshold"}, "the file has every other setting"
    requests = [request_of(values) for values in (from_file, expected)]
    assert requests[0] == requests[1]
    assert requests[0].plan == open_recipe("mine.toml", layout="uniform")
    assert (requests[0].calibration.held_out, requests[0].parity.prompts, requests[0].router) == (6, 2, False)


def test_the_command_line_wins_and_paths_are_relative_to_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "export.toml").write_text(FILE)
    (home / "elsewhere").mkdir()
    monkeypatch.chdir(home / "elsewhere")
    values = values_of(
        "n", "--config", "../export.toml", "--task", "c=c.txt", "--ratio", "0.1", "--out", "there",
        "--set", "seed=7", "--set", "samples=9", "--set", "mix.z=a",
    )  # fmt: skip
    assert (values["model"], values["tasks"], values["ratio"]) == ("n", ("c=c.txt",), (0.1,))
    assert (values["samples"], values["out"], values["seed"], values["mix"]) == (9, Path("there"), 7, ("z=a",))
    assert (values["held_out"], values["precision"]) == (6, "int4")
    assert (values["recipe"], values["limits"]) == ("../mine.toml", Path("../limits.toml"))
    values = values_of("--set", "seed=7", "--config", "../export.toml")
    assert (values["model"], values["out"], values["seed"]) == ("../m", Path("../made"), 7)
    assert values["tasks"] == ("a=../a.jsonl", "b=../b.jsonl")
    (home / "names.toml").write_text('model = "org/model"\nrecipe = "seap"\ntask = ["a=/x", "b=~/b"]\nout = "/out"\n')
    values = values_of("--config", "../names.toml", "--ratio", "0.2")
    assert (values["model"], values["recipe"], values["out"]) == ("org/model", "seap", Path("/out"))
    assert values["tasks"] == ("a=/x", f"b={Path.home() / 'b'}")


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        ([], ["onnx fp32", "onnx fp16", "onnx int8", "onnx int4"]),
        (["--format", "hf", "--format", "gguf", "--format", "onnx:int8"], ["gguf q8_0", "gguf q4_k_m", "onnx int8"]),
        (["--provider", "cuda"], ["onnx fp16", "onnx bf16", "onnx int8", "onnx int4"]),
        (["--set", "dialect=standard"], ["onnx fp32", "onnx fp16"]),
    ],
)
def test_what_a_target_is_met_with(home: Path, arguments: list[str], written: list[str]) -> None:
    options = ("m", "--task", "a=a.jsonl", "--target-size", "1MB", "--out", "out")
    asked = [f"{format.name} {format.precision}" for format in request_of(values_of(*options, *arguments)).formats]
    assert set(written) <= set(asked)
    assert {name.split()[0] for name in asked} == {name.split()[0] for name in written}


def test_errors_name_file_line_and_key(run: Run, work: Path) -> None:
    for text, line, words in (
        ("ratio = 0.2\n\nrato = 0.3", 3, ["rato", "unknown", "did you mean 'ratio'", "held_out"]),
        ("\n\nsamples = 2.5", 3, ["samples", "whole number"]),
    ):
        (work / "export.toml").write_text(text)
        run("export", *REQUIRED, "--config", "export.toml").refused(2, f"Error: export.toml:{line}: ", *words)
    assert not (work / "out").exists()


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_pages_list_the_options(page: Path) -> None:
    assert page.read_text("utf-8") == pages()[page], "make pages"


def test_help_all_shows_the_rare_options_and_the_settings(run: Run) -> None:
    """A rare option works as any other; a file can give those that are required."""
    output = run("export", "--help-all").out
    command = main.commands["export"]
    settings = {option.name for option in settings_of(command).values()}
    options = {str(option.name) for option in command.params} - settings - {"model"}
    assert output.count("\n  -") == len(options) + 2  # --help and --help-all
    assert [key for key in settings_of(command) if f"\n  {key} " not in output] == []
    assert "[required]" not in output
    assert "[required]" in run("calibrate", "--help").out


def test_the_sample_can_be_exported(result: Callable[..., Any], work: Path) -> None:
    """The shipped file, on the micro model and in a folder that is not its own."""
    sample = ROOT / "samples" / "export.toml"
    planned = result("export", "m", "--config", sample, "--out", "out", "--dry-run", "--quiet")
    tasks = {row["variant"].rpartition("-")[0] for row in planned["variants"]}
    assert tasks == {"arithmetic", "everyday", "reading", "general"}


def test_a_printed_recipe_loads_to_the_same_settings(run: Run, tmp_path: Path) -> None:
    for name in shipped_recipes():
        (tmp_path / "mine.toml").write_text(run("recipes", name).out, "utf-8")
        assert open_recipe(str(tmp_path / "mine.toml")) == open_recipe(name)
        described = json.loads(run("recipes", name, "--json").out)
        assert (described["name"], described["settings"]) == (name, asdict(open_recipe(name)))
