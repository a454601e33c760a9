"""The interface of the formats that models are written in; `converters.formats` lists all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from converters.form_options import FormOptions
from converters.mixed import MIXED, SCALE_BITS, average_bits, limits_of
from seap_export.errors import ArtifactError, UsageError

if TYPE_CHECKING:
    import torch

    from converters.onnx.precision import Precision
    from seap_export.model.families import ModelSpec, Sublayer
    from seap_export.pruning.plan.recipes import Target
    from seap_export.pruning.rounding.grid import BlockQuantization, Way


def lacks(spec: ModelSpec, *known: type[Sublayer]) -> str | None:
    """The first part of a model's layers that is unusual or of none of the `known` kinds, in words; None: none is."""
    words = (sublayer.extra if isinstance(sublayer, known) else sublayer.noun for sublayer in spec.sublayers)
    return next((part for part in words if part is not None), None)


@dataclass(frozen=True)
class Place:
    """A range of bytes in a file."""

    file: Path
    start: int
    stop: int


class StoredWeights(Protocol):
    """The weights that a written file holds, under the names and in the shapes of the model folder's safetensors.

    Attributes:
        places: The bytes that were read for weights until now.
    """

    places: list[Place]

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """The named tensors in float32: dequantised, and with their rows in the model folder's order.

        Raises:
            ArtifactError: The file is damaged, or lacks one of them.
        """
        ...


@dataclass(frozen=True)
class Format(ABC):
    """One way to write a model, with the settings that are usual at one precision.

    Attributes:
        name: Name on the command line, in the manifest, and of the folder that is written beside `hf`.
        extra: The extra of this package that installs what the format needs; None: it needs no extra.
        runtimes: Names of the runtimes that run it; parity is proved with the first.
        precisions: Precisions that may follow the name and a colon, as in `gguf:q8_0`; the first is the default.
        ways: How a matrix may be rounded in precisions where each has bits of its own; none: there is no such one.
        size_has_tokenizer: Whether `size` counts the tokenizer, which is in the file of the weights.
        version: Number that grows when the same model gives other bytes than before.
        precision: One of `precisions`.

    Raises:
        UsageError: There is no such precision.
    """

    name: ClassVar[str]
    extra: ClassVar[str | None] = None
    runtimes: ClassVar[tuple[str, ...]]
    precisions: ClassVar[tuple[str, ...]]
    ways: ClassVar[tuple[Way, ...]] = ()
    size_has_tokenizer: ClassVar[bool] = False
    version: ClassVar[int]
    precision: str

    @classmethod
    def has_precision(cls, name: str) -> bool:
        """Whether a precision may be given.

        Raises:
            UsageError: A number in the name is out of range.
        """
        return name in cls.precisions or average_bits(name, cls.name, cls.ways) is not None

    @classmethod
    def known(cls) -> tuple[str, ...]:
        """The precisions, in words."""
        return (*cls.precisions, f"{MIXED}BITS such as {MIXED}5.5") if cls.ways else cls.precisions

    def __post_init__(self) -> None:
        if not self.has_precision(self.precision):
            raise UsageError(f"{self.name} has no precision '{self.precision}'; use one of {', '.join(self.known())}")
        average = average_bits(self.precision, self.name, self.ways)
        if average is not None:  # mixed-6.0 is mixed-6, which is what a written folder says
            object.__setattr__(self, "precision", f"{MIXED}{average:g}")

    @classmethod
    def of_options(cls, precision: str | None, options: FormOptions) -> Self:
        """The format in a precision, set up as the options of an export say.

        Args:
            precision: The precision given after a colon; None: the options or the first of `precisions` decide.
            options: Options of ONNX graphs; a format that takes none ignores them.

        Raises:
            UsageError: They contradict each other, have no effect, or ask for what the provider cannot run.
        """
        return cls(precision or cls.precisions[0])

    @classmethod
    def each_of_options(cls, options: FormOptions, *, of_prompts: bool = False) -> Iterator[Self]:
        """The format in every precision that the options allow, that of mixed bits last; see `all_formats_of`."""
        from seap_export.pruning.rounding.grid import USUAL_AVERAGE

        return map(cls, (*cls.precisions, f"{MIXED}{USUAL_AVERAGE}") if cls.ways else cls.precisions)

    def options(self) -> dict[str, Any]:
        """The options of graphs that, with the precision, make this format again, as in a settings file."""
        return {}

    @property
    def provider(self) -> str | None:
        """The execution provider that it is written for; None: its runtime has none."""
        return None

    @property
    def arithmetic(self) -> Precision:
        """The precision in which its runtimes are taken to store and compute, by the bits in the precision's name.

        8 and 4 bits are weights alone: what they are multiplied with is rounded to 8 bits, in blocks.
        """
        from converters.onnx.precision import arithmetic_of

        return arithmetic_of(self.precision, self.average)

    @property
    def gives_last_logits(self) -> bool:
        """Whether a prompt is answered with the logits of its last token alone."""
        return True

    @property
    def target(self) -> Target | None:
        """The kernels that the widths of a pruned variant should suit; None: no widths are faster than others."""
        return None

    @property
    def average(self) -> float | None:
        """Bits of a weight on average, where every matrix has bits of its own; None: all have the same."""
        return average_bits(self.precision, self.name, self.ways)

    @property
    def averages(self) -> tuple[float, float]:
        """The least and the most of `average`."""
        return limits_of(self.ways)

    @property
    def matrix_bytes(self) -> int:
        """Bytes of a matrix of few bits besides its weights: the nodes that unpack it."""
        return 0

    def mixed(self, average: float) -> Self:
        """The format in which every matrix has bits of its own, where `average` is not None.

        Args:
            average: Bits of a weight, with its share of a scale, within `averages`.
        """
        return type(self)(f"{MIXED}{average:g}")

    def mixed_grid(self, model_folder: Path) -> BlockQuantization | None:
        """The bits of each matrix that a rounded model has; None: all matrices of a file have the same.

        Raises:
            UsageError: The model was not rounded for this precision of this format.
        """
        if (grid := self._noted(model_folder)) is None and self.average is not None:
            raise UsageError(
                f"the bits of each matrix are chosen with calibration texts; give --calibration, or use another "
                f"precision than {self.precision}"
            )
        return grid

    def written_grid(self, folder: Path) -> BlockQuantization | None:
        """The bits of each matrix in a written folder; None: all matrices have the same.

        Raises:
            ArtifactError: No note in the folder says them.
        """
        if (grid := self._noted(folder)) is None and self.average is not None:
            raise ArtifactError(f"{folder}: no note says the bits of each matrix in {self.precision}; export again")
        return grid

    def _noted(self, folder: Path) -> BlockQuantization | None:
        """The bits of each matrix that a folder's note says, if it is of this precision of this format."""
        from seap_export.pruning.rounding.note import read_note

        note, known = read_note(folder), {(way.bits, way.block_size, way.levels) for way in self.ways}
        if self.average is None or note is None or (note.grid.average, note.grid.mix) != (self.average, self.name):
            return None
        used = {other[1:] for other in note.grid.others}
        used |= {(part.bits, table.block_size, "usual") for table in note.grid.tables for part in table.parts}
        return note.grid if used <= known else None

    @classmethod
    def mixed_of(cls, folder: Path) -> Self | None:
        """The format in which every matrix has bits of its own, if a folder was written so, as its note says.

        Raises:
            ArtifactError: The note is damaged.
        """
        from seap_export.pruning.rounding.note import read_note

        note = read_note(folder)
        if note is None or note.grid.average is None or note.grid.mix != cls.name:
            return None
        try:
            return cls(f"{MIXED}{note.grid.average:g}")
        except UsageError as error:
            raise ArtifactError(f"{folder}: {error}; export again") from error

    def plain(self) -> Self:
        """The format in which the dense model is timed, the baseline of speed-ups: here in its first precision."""
        return type(self)(self.precisions[0])

    def uniform(self) -> Self:
        """The format with the same bits for all matrices, 4 or 8, for which no texts are needed; itself if it has."""
        from converters.onnx.precision import arithmetic_of

        if self.average is None:
            return self
        bits = {name: how.bits for name in self.precisions if (how := arithmetic_of(name).quantization) is not None}
        average = self.average
        return type(self)(min(bits, key=lambda name: abs(bits[name] + SCALE_BITS - average)))

    @classmethod
    @abstractmethod
    def read(cls, folder: Path) -> Self:
        """The format of a written folder, as its files say; their weights are not read.

        Raises:
            ArtifactError: A file is missing or damaged.
        """

    @abstractmethod
    def refusal(self, spec: ModelSpec, model_folder: Path) -> str | None:
        """Why a model cannot be written so, with a remedy, in one line; None: it can.

        Args:
            spec: The model's shapes.
            model_folder: Folder with config.json, generation_config.json and tokenizer; weights may not be there yet.

        Raises:
            UsageError: The format would accept the model with other settings.
            InputError: A file is damaged.
            EnvironmentFailure: A package that the check needs is missing.
        """

    def remark(self, spec: ModelSpec) -> str | None:
        """A note for users on a model in this format, such as shapes that cost speed or size; None: there is none."""
        return None

    @abstractmethod
    def size(self, spec: ModelSpec) -> int:
        """Predicts the bytes of the weight files, within 3 percent."""

    def grid(self, spec: ModelSpec) -> BlockQuantization | None:
        """The grid that matrices are rounded to, if a model that was put on it before keeps its levels.

        None: matrices are not rounded, or are always rounded to the nearest level.
        """
        return None

    def settings(self) -> dict[str, Any]:
        """Everything but the model that the bytes depend on, as JSON values."""
        return {"precision": self.precision, "version": self.version}

    @abstractmethod
    def write(self, model_folder: Path, out_folder: Path, on_layer: Callable[[int], None]) -> None:
        """Writes a model folder, dense or pruned, one layer in memory at a time; the same input gives the same bytes.

        Args:
            model_folder: Folder with config.json, safetensors files and tokenizer.
            out_folder: Exists and is empty. Nothing stays there after a failure.
            on_layer: Called with a layer's index once all its weights are written.

        Raises:
            InputError: The model is refused or damaged, or a weight does not fit the precision.
            UsageError: `out_folder` is not empty.
            EnvironmentFailure: The extra is missing, or the files cannot be written.
        """

    def write_like(self, written: Path, model_folder: Path, out_folder: Path) -> None:
        """Writes as `write` does; of what is as good either way, such as powers of two, as in a written folder."""
        self.write(model_folder, out_folder, lambda layer: None)

    @abstractmethod
    def weights(self, folder: Path, spec: ModelSpec) -> StoredWeights:
        """The weights of a written folder; none is read yet.

        Raises:
            ArtifactError: The folder cannot be read.
        """


def named_folders(formats: Sequence[Format]) -> dict[str, Format]:
    """The folder of each format: its name, or for a further precision NAME-PRECISION.

    Args:
        formats: No two are of the same name and precision.
    """
    by_folder: dict[str, Format] = {}
    for format in formats:
        folder = format.name if format.name not in by_folder else f"{format.name}-{format.precision}"
        if folder in by_folder:
            raise ValueError(f"the format {format.name} is given twice at {format.precision}")
        by_folder[folder] = format
    return by_folder
