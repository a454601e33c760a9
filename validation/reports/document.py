"""A report as a document: sections of words, lists, commands and tables, which a page and a job summary render."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from validation.reports.numbers import NOTHING

#: For terminals that show nothing but ASCII.
_ASCII = str.maketrans({"×": "x", "±": "+-", "–": "-", "−": "-"})


def in_ascii(text: str) -> str:
    return text.translate(_ASCII)


@dataclass(frozen=True)
class Cell:
    """A figure in words, or a verdict.

    Attributes:
        main: The figure itself.
        brief: What tables add, in smaller print or in brackets; may be empty.
        details: What is said where there is more room.
        anchor: The section that it leads to; "": none.
    """

    main: str
    brief: str = ""
    details: tuple[str, ...] = ()
    anchor: str = ""

    @property
    def line(self) -> str:
        """The figure, and in brackets what tables add, in ASCII."""
        return in_ascii(f"{self.main} ({self.brief})" if self.brief else self.main)


Row = TypeVar("Row")


@dataclass(frozen=True)
class Column(Generic[Row]):
    """A figure: its title at the head of a column, and how it is read from a row.

    Attributes:
        words: What it is called in a sentence; "": its title.
        explained: What a legend says of it; "": its title says all.
        is_main: Whether tables with one row for each file have it.
    """

    title: str
    cell: Callable[[Row], Cell]
    words: str = ""
    explained: str = ""
    is_main: bool = True

    @property
    def head(self) -> str:
        """The title with a capital letter."""
        return self.title[0].upper() + self.title[1:]


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows; `shown` leaves out columns without a figure."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]

    @classmethod
    def of(cls, caption: str, columns: Sequence[Column[Row]], rows: Mapping[str, Row], first: str) -> Table:
        """A row for each name, with a cell for each column; `first` is the head of the names."""
        cells: list[list[str | Cell]] = [
            [name, *(column.cell(row) for column in columns)] for name, row in rows.items()
        ]
        return cls(caption, (first, *(column.head for column in columns)), cells)

    @property
    def shown(self) -> Table:
        cells = list(zip(*self.rows, strict=True))
        full = [number for number, column in enumerate(cells) if not number or any(map(_is_known, column))]
        rows = [[row[number] for number in full] for row in self.rows]
        return Table(self.caption, [self.head[number] for number in full], rows)


def _is_known(cell: str | Cell) -> bool:
    return (cell if isinstance(cell, str) else cell.main) not in ("", NOTHING, "-")


@dataclass(frozen=True)
class Words:
    """A paragraph; a command may follow it, and a kind sets how it looks: `status`, `ship` or `quiet`."""

    text: str
    command: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Items:
    """A list of lines."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Section:
    """A part of a document with a title; one without an anchor is a part of a larger one.

    Attributes:
        verdict: What is shown beside the title; "": nothing.
        is_folded: Whether it is a detail that is shown on demand.
    """

    title: str
    blocks: Sequence[Block]
    anchor: str = ""
    verdict: str = ""
    is_folded: bool = False


Block = Table | Words | Items | Section
