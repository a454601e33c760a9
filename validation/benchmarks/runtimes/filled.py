"""Puts what a command made into a page, between two comments."""

from __future__ import annotations

import re
from pathlib import Path

from seap_export.errors import UsageError

__all__ = ["fill"]


def fill(page: Path, name: str, text: str) -> None:
    """Replaces what is between `<!-- NAME -->` and `<!-- end of NAME -->`.

    Raises:
        UsageError: The page cannot be read or written, or lacks the comments.
    """
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    try:
        before = page.read_text("utf-8")
        pattern = re.compile(f"({re.escape(begin)}\n).*?({re.escape(end)})", re.DOTALL)
        after, count = pattern.subn(lambda match: f"{match[1]}\n{text}\n\n{match[2]}", before)
        if count != 1:
            raise UsageError(f"{page}: has not one pair of the lines '{begin}' and '{end}'; add them")
        page.write_text(after, "utf-8", newline="\n")
    except OSError as error:
        raise UsageError(f"{page}: cannot be filled ({error}); give a page that can be written as --out") from error
