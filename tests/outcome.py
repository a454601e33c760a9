"""What a run of the command line ended with."""

from __future__ import annotations

from dataclasses import dataclass

from click.testing import CliRunner

from seap_export.cli import main

__all__ = ["Outcome", "run_here"]


@dataclass(frozen=True)
class Outcome:
    """Exit code (negative after a signal, None after a timeout), stdout and stderr."""

    code: int | None
    out: str
    err: str

    def refused(self, code: int, *keywords: str) -> str:
        """The message of a run that must have ended with that code and one line that holds the keywords.

        The rest of the sentence is not asserted, so that it can be made better.
        """
        assert self.code == code, self
        assert self.err.startswith("Error: "), self
        assert self.err.count("\n") == 1, self
        missing = [keyword for keyword in keywords if keyword.lower() not in self.err.lower()]
        assert missing == [], self.err
        return self.err.removeprefix("Error: ").removesuffix("\n")


def run_here(*arguments: object) -> Outcome:
    """Runs `seap-export ARGUMENTS` in this process."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr)
