"""The command line as a whole."""

from __future__ import annotations

import pytest

from seap_export.cli.main import main


@pytest.mark.parametrize("name", main.commands)
def test_a_command_run_by_itself_has_all_help_options(name: str) -> None:
    context = main.commands[name].make_context(name, [], resilient_parsing=True)
    assert context.help_option_names == ["-h", "--help"]
