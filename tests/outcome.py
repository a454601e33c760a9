"""What a run of the command line ended with."""

from __future__ import annotations

from dataclasses import dataclass

from click.testing import CliRunner

from seap_export.cli import main

__all__ = ["FEW_STEPS", "Outcome", "run_here"]

#: Decoding 16 tokens for each prompt is most of the time of a micro export; tests of the caches ask for more.
FEW_STEPS = {"decode_steps": 2}
#: What an export measures besides takes time, and its times differ from run to run; few tests ask for it.
UNMEASURED = {"quality": False, "speed": False}


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
    """Runs `seap-export ARGUMENTS` in this process; comparisons are short, unless the arguments say more."""
    few = {"export": FEW_STEPS | UNMEASURED, "validate": FEW_STEPS}
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], default_map=few)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr)
