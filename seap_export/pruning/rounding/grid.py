"""The grid that a matrix is rounded to: its bits, its blocks, and which levels there are."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

from seap_export.model.families.names import is_product
from seap_export.pruning.rounding.table_rows import TablePart, TableRows

BLOCK_SIZES = (32, 64, 128)
#: The block size of a matrix whose rows have one scale each.
WHOLE_ROW = 0
#: The numbers of bits that a weight may have. With those of `_EVEN`, zero is usually a level; with the others, levels
#: lie in pairs above and below it, since one more below would be a large share of so few.
BITS, _EVEN = (2, 3, 4, 5, 6, 8), (4, 8)
#: Which levels there are besides the bits: the usual ones; zero and one more below it than above; zero and as many
#: below it as above, of which the largest weight has one of the ends; or, with 4 bits, those of `CURVE`.
Levels = Literal["usual", "zero", "balanced", "curve"]
#: Levels that lie closer together near zero, where most weights are: those of llama.cpp's IQ4_NL (`kvalues_iq4nl` in
#: ggml/src/ggml-common.h). None of them is zero.
CURVE = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
#: The bits of the integers that are multiplied where the weights in a row are multiples of one step.
_MULTIPLIED = 8
#: Bits of a weight on average, with its share of a scale of 16 bits, where matrices have bits and blocks of their own:
#: the usual number, that of 4 bits in blocks of 32.
USUAL_AVERAGE = 4.5
#: Rows of a table from which on bits for each of them save more than they take.
_MANY_ROWS = 1024


@dataclass(frozen=True)
class Way:
    """How a matrix may be rounded where matrices have bits of their own.

    Attributes:
        block_size: Number of weights that share a scale.
        beside: Bits of a block besides those of its weights: a scale, and what else is stored of it.
        of_experts: Whether it is for matrices of experts, or for all others; None: for both.
    """

    bits: int
    block_size: int
    levels: Levels = "usual"
    beside: int = 16
    of_experts: bool | None = None

    @property
    def average(self) -> float:
        """Bits of a weight, with its share of a block's scale and zero point."""
        return self.bits + self.beside / self.block_size

    def takes(self, columns: int) -> bool:
        """Whether rows of so many columns are whole blocks."""
        return columns % self.block_size == 0


@dataclass(frozen=True)
class BlockQuantization:
    """Weight-only quantisation of matrices [out, in] in blocks along `in`: weight = (q - zero point) * scale.

    Attributes:
        bits: One of `BITS`.
        block_size: Number of weights that share a scale: 32, 64 or 128; of one matrix also `WHOLE_ROW`.
        symmetric: Whether the zero point is always `middle`; otherwise, with 4 or 8 bits, each block has one.
        embeddings: Whether the embedding and the LM head are quantised, too.
        whole_blocks: Whether matrices whose rows are no whole blocks stay as they are; otherwise their last blocks are
            filled up with zeros.
        positive: Whether scales are above zero. Otherwise that of a symmetric block may be below, so that its largest
            weight, of either sign, has the lowest level.
        average: Bits of a weight with its share of a scale, the mean of all matrices, which then have bits of their
            own; None: all matrices are alike.
        mix: Name of the format that such matrices are for.
        ways: What their bits are chosen from, as long as they are not.
        others: The matrices that have other bits and blocks than these: the full names of weights, bits, block size,
            levels.
        rows: Whether the weights in a row of a matrix that layers multiply with are whole multiples of one step, so
            that integers can be multiplied. With 8 bits, such a row is one block; with 4, the scale of each of its
            blocks is a multiple of the step, too. The embedding, the LM head and experts have blocks as usual.
        levels: Which levels symmetric blocks have.
        splits_tables: Whether the rows of an embedding and of the LM head may have bits of their own; see `splits`.
        tables: The tables whose rows do.
    """

    bits: int
    block_size: int = 32
    symmetric: bool = True
    embeddings: bool = True
    whole_blocks: bool = False
    positive: bool = False
    average: float | None = None
    mix: str = ""
    ways: tuple[Way, ...] = ()
    others: tuple[tuple[str, int, int, Levels], ...] = ()
    rows: bool = False
    levels: Levels = "usual"
    splits_tables: bool = False
    tables: tuple[TableRows, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "others", tuple(_other(*other) for other in self.others))
        tables = (table if isinstance(table, TableRows) else TableRows(*table) for table in self.tables)
        object.__setattr__(self, "tables", tuple(tables))
        if self.bits not in BITS:
            raise ValueError(f"bits must be one of {BITS}, not {self.bits}")
        if self.block_size not in (WHOLE_ROW, *BLOCK_SIZES):
            raise ValueError(f"block size must be one of {BLOCK_SIZES}, not {self.block_size}")
        if self.levels not in get_args(Levels):
            raise ValueError(f"levels must be one of {get_args(Levels)}, not {self.levels}")
        if not self.symmetric and self.bits not in _EVEN:
            raise ValueError(f"weights of {self.bits} bits have no zero points")
        if self.rows and (self.bits not in _EVEN or not self.symmetric):
            raise ValueError("rows have one step with 4 or 8 bits, and no zero points")

    @property
    def middle(self) -> float:
        """The zero point of symmetric blocks: a level, or between two; of `CURVE`, whose levels are no steps, 0."""
        return 0.0 if self.levels == "curve" else (1 << (self.bits - 1)) - (0.5 if self.in_pairs else 0.0)

    @property
    def in_pairs(self) -> bool:
        """Whether levels lie in pairs above and below zero, which is none."""
        return self.symmetric and self.levels == "usual" and self.bits not in _EVEN

    @property
    def name(self) -> str:
        """A name for files, such as "int4-32"."""
        further = ["" if self.symmetric else "-asymmetric", "" if self.embeddings else "-float-embeddings"]
        further += ["-whole-blocks" if self.whole_blocks else "", "-positive" if self.positive else ""]
        mixed = "-".join(filter(None, (f"mixed-{self.average or 0:g}", self.mix)))
        kind = mixed if self.average is not None else f"int{self.bits}-{self.block_size}"
        kind = f"w{self.bits}a8-{self.block_size}" if self.rows else kind
        return f"{kind}{''.join(further)}"

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values; those of matrices with bits or scales of their own only where there are some."""
        values = asdict(self) | {
            "others": [list(other) for other in self.others],
            "tables": [[table.name, table.block_size, table.bits] for table in self.tables],
        }
        unset = [] if self.average is not None else ["average", "others"]
        unset += [name for name in ("mix", "ways", "rows", "splits_tables", "tables") if not values[name]]
        unset += ["levels"] if self.levels == "usual" else []
        return {name: value for name, value in values.items() if name not in unset}

    def of(self, name: str) -> BlockQuantization:
        """The grid of one matrix, given the full name of its weight, or the name of a table's part.

        That of a table with parts is that of its first one, which has the blocks of all.
        """
        rows = self.rows and is_product(name)
        if rows and self.bits == _MULTIPLIED:
            return replace(self, block_size=WHOLE_ROW, rows=False)
        bits, size, levels = self._others.get(name, (self.bits, self.block_size, self.levels))
        return replace(self.rounded(Way(bits, size, levels)), rows=rows)

    def rounded(self, way: Way) -> BlockQuantization:
        """The grid of a matrix that is rounded in one of the ways."""
        alone = replace(self, average=None, mix="", ways=(), others=(), rows=False, splits_tables=False, tables=())
        return replace(alone, bits=way.bits, block_size=way.block_size, levels=way.levels)

    @property
    def input_block(self) -> int:
        """How many of a token's values share a scale in products that round them; `WHOLE_ROW`: all of them."""
        return WHOLE_ROW if self.rows else self.block_size

    def width(self, columns: int) -> int:
        """Number of weights in a block of a row with so many columns."""
        return self.block_size or columns

    def splits(self, rows: int) -> bool:
        """Whether the rows of a table with so many may have bits of their own: of few, the nodes for it take more."""
        return self.splits_tables and rows >= _MANY_ROWS

    def parts(self, name: str) -> tuple[TablePart, ...]:
        """The parts of a table whose rows have bits of their own, each of which has a grid, see `of`; else none."""
        return next((table.parts for table in self.tables if table.name == name), ())

    @cached_property
    def _others(self) -> dict[str, tuple[int, int, Levels]]:
        known = {name: (bits, size, levels) for name, bits, size, levels in self.others}
        for table in self.tables:
            known |= {part.name: (part.bits, table.block_size, "usual") for part in table.parts}
            known[table.name] = known[table.parts[0].name]
        return known

    def takes(self, columns: int) -> bool:
        """Whether matrices with so many columns are quantised."""
        return not self.whole_blocks or columns % self.block_size == 0

    def takes_table(self, columns: int) -> bool:
        """Whether an embedding of so many columns, or the LM head, is quantised: whole blocks can be looked up."""
        return self.embeddings and columns % self.block_size == 0


def _other(name: str, bits: int, size: int, levels: Levels = "usual") -> tuple[str, int, int, Levels]:
    """An entry of `BlockQuantization.others`; earlier files have usual levels, and do not name them."""
    if levels not in get_args(Levels):
        raise ValueError(f"levels must be one of {get_args(Levels)}, not {levels}")
    return name, bits, size, levels
