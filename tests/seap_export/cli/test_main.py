"""The command line as a whole."""

from __future__ import annotations

import click
import pytest

from seap_export.cli.main import _refuse_other_bytes, main


@pytest.mark.parametrize("name", main.commands)
def test_a_command_run_by_itself_has_all_help_options(name: str) -> None:
    context = main.commands[name].make_context(name, [], resilient_parsing=True)
    assert context.help_option_names == ["-h", "--help"]


def test_an_argument_of_other_bytes_than_utf_8_is_refused() -> None:
    _refuse_other_bytes(["export", "Äpfel"])
    with pytest.raises(click.UsageError, match="not UTF-8"):
        _refuse_other_bytes(["export", "\udcc4pfel"])
