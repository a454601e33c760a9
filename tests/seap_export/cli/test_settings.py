"""Defaults that depend on other options."""

from __future__ import annotations

from typing import Any

import click
import pytest

from seap_export.cli.main import main
from seap_export.cli.settings import plan_settings


def settings_of(command: str, *arguments: str) -> Any:
    """The plan settings of a command line."""
    own = main.get_command(click.Context(main), command)
    assert own is not None
    return plan_settings(own.make_context(command, list(arguments)).params)


@pytest.mark.parametrize(
    ("arguments", "align"),
    [
        ([], 16),
        (["--provider", "cuda"], 64),
        (["--provider", "cuda", "--precision", "int4"], 64),
        (["--provider", "cuda", "--align", "8"], 8),
        (["--align", "32"], 32),
    ],
)
def test_the_alignment_is_that_of_the_provider_unless_it_is_given(arguments: list[str], align: int) -> None:
    required = ["model", "--task", "piqa=data.parquet", "--ratio", "0.2", "--out", "out"]
    assert settings_of("export", *required, *arguments).align == align
