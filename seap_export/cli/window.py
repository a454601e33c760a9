"""Text that fits the window: tables, and prose around them."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from validation.reports import document as reports

#: The key in click's context that says whether --wide is given.
WIDE = f"{__name__}.wide"
_GAP = "  "
#: What people copy: commands in quotes, and those after `run: `.
_COMMAND = re.compile(r"""(?<!\w)'[^']+'(?!\w)|`[^`]+`|(?<=run: )(?:"[^"]*"|[^",;])+""")
_UNBROKEN = "\0"


def columns_of_window() -> int:
    """The columns of the terminal; 80 if there is none."""
    return shutil.get_terminal_size().columns


def prose(text: str, hang: int = 0) -> str:
    """A paragraph that is wrapped between words, but not within a command or a path."""
    kept = _COMMAND.sub(lambda command: command[0].replace(" ", _UNBROKEN), text)
    return "\n".join(_wrapped(kept, columns_of_window(), " " * hang)).replace(_UNBROKEN, " ")


def _wrapped(text: str, width: int, indent: str = "") -> list[str]:
    wrapper = textwrap.TextWrapper(width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return wrapper.wrap(text) or [""]


def captioned(table: reports.Table | None, first: int) -> str:
    """A table of reports below the sentence that it is called; "" if there is none."""
    return "" if table is None else "\n".join([prose(f"{table.caption}."), Table.of(table, first).text])


@dataclass(frozen=True)
class Table:
    """Aligned columns: the first and those of words to the left, those with a number to the right.

    Columns without a figure are left out and, unless --wide is given, those that the window has no room for. If it has
    none for the others either, the words of the widest column are wrapped.

    Attributes:
        header: The titles.
        rows: The cells.
        first: How many columns are shown even if there is no room; None: all.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    first: int | None = None

    @classmethod
    def of(cls, table: reports.Table, first: int | None = None) -> Table:
        """A table of reports, in ASCII and with small letters."""
        from validation.reports.document import Cell  # loads numpy

        head = [title[0].lower() + title[1:] if title[1:2].islower() else title for title in table.head]
        rows = [[(Cell(cell) if isinstance(cell, str) else cell).line for cell in row] for row in table.rows]
        return cls(head, rows, first)

    @property
    def text(self) -> str:
        columns = [self._columns[number] for number in self._shown]
        are_words = [not number or not any(map(_is_number, column[1:])) for number, column in enumerate(columns)]
        widths = list(map(_width, columns))
        widest = max((number for number, words in enumerate(are_words) if words), key=widths.__getitem__)
        longest_word = max(len(word) for cell in columns[widest] for word in cell.split() or [""])
        widths[widest] = max(longest_word, widths[widest] - max(0, _width_of(widths) - _room()))
        lines = []
        for row in zip(*columns, strict=True):
            cells = [_wrapped(cell, max(1, width)) for cell, width in zip(row, widths, strict=True)]
            for parts in zip_longest(*cells, fillvalue=""):
                aligned = zip(parts, widths, are_words, strict=True)
                line = _GAP.join(part.ljust(width) if words else part.rjust(width) for part, width, words in aligned)
                lines.append(line.rstrip())
        return "\n".join([*lines, *(["More columns: --wide"] if len(self._shown) < len(self._filled) else [])])

    def legend(self, lines: Iterable[tuple[str, str]]) -> Iterator[str]:
        """Those of the lines, each after the title of a column, whose columns are shown."""
        shown = {self.header[number] for number in self._shown}
        return (prose(line, hang=2) for title, line in lines if title in shown)

    @cached_property
    def _columns(self) -> list[tuple[str, ...]]:
        return list(zip(self.header, *self.rows, strict=True))

    @cached_property
    def _filled(self) -> list[int]:
        columns = enumerate(self._columns)
        return [number for number, cells in columns if not number or not {"", "-"}.issuperset(cells[1:])]

    @cached_property
    def _shown(self) -> list[int]:
        first = len(self.header) if self.first is None else self.first
        shown = [number for number in self._filled if number < first]
        for number in self._filled[len(shown) :]:
            if _width_of([_width(self._columns[one]) for one in (*shown, number)]) > _room():
                break
            shown.append(number)
        return shown


def _is_number(cell: str) -> bool:
    return cell.lstrip("(+-")[:1].isdigit()


def _width(column: Sequence[str]) -> int:
    return max(map(len, column))


def _width_of(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _room() -> int:
    """How wide a table may be."""
    context = click.get_current_context(silent=True)
    return sys.maxsize if context is not None and context.meta.get(WIDE) else columns_of_window()
