"""The plan of a run holds commands that exist, in an order that leaves each what it needs."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from unittest import mock

import click
import pytest
from click.testing import CliRunner
from support.product import choose_precision

from converters.onnx.precision import PRECISIONS
from seap_export.cli import main, values
from seap_export.errors import UsageError
from validation.readiness.__main__ import readiness
from validation.readiness.request import FORMS, Programs, Provider, Request
from validation.readiness.step import Command
from validation.readiness.steps import plan_steps
from validation.shapes import LLAMA_2_7B

ROOT = Path(__file__).parents[3]
PROVIDERS = tuple(FORMS)
SEAP, PYTHON, GENAI, MAKE = ("seap-export",), ("python",), ("genai",), ("make", "genai-environment")


def planned(provider: Provider) -> Request:
    return Request(Programs(SEAP, PYTHON, GENAI, MAKE), "model.gguf", Path("texts.jsonl"), provider)


def commands(provider: Provider) -> list[Command]:
    return [command for step in plan_steps(planned(provider)) for command in step.commands]


def parses(command: click.Command, arguments: list[str]) -> None:
    """Fails with the message that a user would see; paths need not be there yet."""
    with (
        mock.patch.object(values.ExistingPath, "convert", values.PathType.convert),
        command.make_context(str(command.name), arguments),
    ):
        pass


@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_command_of_ours_exists_and_takes_its_options(provider: Provider) -> None:
    modules = set()
    for command in commands(provider):
        program, *arguments = command.words
        if program == SEAP[0]:
            parses(main.commands[arguments[0]], arguments[1:])
            modules.add(arguments[0])
        elif program == PYTHON[0]:
            assert arguments[0] == "-m"
            module = importlib.import_module(arguments[1])
            parses(getattr(module, arguments[1].rpartition(".")[2]), arguments[2:])
            modules.add(arguments[1])
    assert modules >= {"doctor", "export", "validate", "bench", "generate", "prune", "validation.readiness.genai_gaps"}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_step_needs_what_earlier_ones_write(provider: Provider) -> None:
    written: list[Path] = []
    for step in plan_steps(planned(provider)):
        for path in step.after:
            assert any(path.is_relative_to(file) for file in written), (step.name, path)
        for command in step.commands:
            words = command.words
            written += [Path(words[index + 1]) for index, word in enumerate(words) if word == "--out"]
            written += [Path(words[4])] if "tests/benchmarks" in words else []


@pytest.mark.parametrize("provider", PROVIDERS)
def test_forms_are_those_that_the_provider_runs(provider: Provider) -> None:
    def runs(name: str) -> bool:
        try:
            choose_precision(name, provider)
        except UsageError:
            return False
        return True

    fused = {precision for precision, dialect in FORMS[provider] if dialect == "fused"}
    assert fused == set(filter(runs, PRECISIONS))
    assert {dialect for _, dialect in FORMS[provider]} == {"fused", "standard"}


@pytest.mark.parametrize("target", ["test-gpu", ".venv-genai-cuda/installed", ".venv-genai/installed"])
def test_make_has_the_targets(target: str) -> None:
    assert re.search(rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)


def test_the_dry_run_shows_every_command_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(readiness, ["--model", "model.gguf", "--dry-run"])
    assert done.exit_code == 0, done.output
    assert done.output.count("  $ ") == len(commands("cuda"))
    for word in ("doctor --require cuda", "make .venv-genai-cuda/installed", "GB of GPU memory", "GB of disk space"):
        assert word in done.output
    assert list(tmp_path.iterdir()) == []


def test_the_dry_run_can_show_one_step() -> None:
    done = CliRunner().invoke(readiness, ["--model", "m", "--dry-run", "--only", "doctor"])
    assert done.exit_code == 0
    assert done.output.count("  $ ") == 3


def test_an_unknown_step_is_refused() -> None:
    done = CliRunner().invoke(readiness, ["--model", "m", "--only", "drive"])
    assert done.exit_code == 2
    assert "drive" in done.output
    assert "doctor" in done.output


def test_the_large_model_is_llama_2_7b() -> None:
    """6,738,415,616 parameters, as its model card says."""
    assert LLAMA_2_7B.spec.num_parameters() == 6_738_415_616
    large = next(step for step in plan_steps(planned("cuda")) if step.name == "large-model")
    assert large.gpu_bytes > LLAMA_2_7B.weight_bytes() == 2 * 6_738_415_616
    assert large.disk_bytes > LLAMA_2_7B.weight_bytes() + LLAMA_2_7B.weight_bytes(0.5)
