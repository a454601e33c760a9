"""Requests of the harness for the likelihood of a continuation after a prompt."""

from __future__ import annotations

from collections.abc import Iterable

from seap_export.errors import InputError

__all__ = ["Request", "check_lengths"]

#: (prompt, continuation) or None, and the tokens of each.
Request = tuple[tuple[str, str] | None, list[int], list[int]]


def check_lengths(requests: Iterable[Request], max_length: int) -> None:
    """Rejects continuations that a model with `max_length` positions cannot score.

    Raises:
        InputError: A continuation has no tokens of its own, or more than there are positions.
    """
    for pair, _, continuation in requests:
        if not 1 <= len(continuation) <= max_length:
            which = "a choice" if pair is None else f"choice {pair[1]!r:.40}"
            raise InputError(
                f"{which} has {len(continuation)} tokens, but the model takes 1 to {max_length}; remove the question"
            )
