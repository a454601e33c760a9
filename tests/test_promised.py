"""What 1.x keeps (docs/reference.md): this list may grow, and nothing may leave it before 2.0."""

from __future__ import annotations

import inspect

import click

import seap_export
from seap_export import errors
from seap_export.cli import main

COMMANDS = {
    "bench", "calibrate", "chat", "convert", "doctor", "evaluate", "export", "generate", "inspect", "plan", "plot",
    "prune", "push", "recipes", "route", "serve", "validate",
}  # fmt: skip
OPTIONS = {
    "export": {
        "task", "ratio", "target-size", "target-decode-speedup", "max-kl", "general", "recipe", "layout", "vocabulary",
        "calibration-tokens", "support", "answers", "out", "format", "precision", "config", "set", "force", "dry-run",
        "quality", "speed", "device", "memory", "threads", "provider", "cluster", "json", "quiet",
    },
    "validate": {
        "check", "dense", "max-kl", "min-accuracy-retained", "min-decode-speedup", "min-prefill-speedup",
        "max-bytes-ratio", "runtime", "prompt-file", "signed-by", "html", "junit", "json",
    },
    "generate": {"prompt-file", "system", "max-new-tokens", "stop", "temperature", "seed", "json"},
}  # fmt: skip
FUNCTIONS = {"convert", "evaluate", "export", "prune", "push", "validate"}
EXIT_CODES = {
    "UsageError": 2, "ParityFailure": 3, "QualityFailure": 4, "SpeedFailure": 5, "EnvironmentFailure": 6,
    "ArtifactError": 7, "InputError": 8,
}  # fmt: skip


def test_the_commands_and_their_options() -> None:
    context = click.Context(main)
    assert set(main.list_commands(context)) >= COMMANDS
    for name, promised in OPTIONS.items():
        command = main.get_command(context, name)
        assert command is not None
        words = {word.lstrip("-") for parameter in command.params for word in parameter.opts}
        assert promised - words == set(), name


def test_the_functions_and_the_errors() -> None:
    assert {*FUNCTIONS, "Variant"} <= set(seap_export.__all__)
    assert all(inspect.isfunction(getattr(seap_export, name)) for name in FUNCTIONS)
    found = {name: getattr(getattr(errors, name), "exit_code", None) for name in EXIT_CODES}
    assert found == EXIT_CODES


def test_the_version_is_that_of_the_promise() -> None:
    assert seap_export.__version__.split(".")[0] == "1"
