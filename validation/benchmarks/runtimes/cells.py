"""The cells of the parity table: a small model of a family, in a format at a precision, in a runtime."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from converters.format import Format
from converters.formats import FORMATS, format_class
from seap_export.errors import EnvironmentFailure, InputError, SeapError, UsageError
from seap_export.extras import require_extra
from seap_export.families import model_spec, supported_families
from seap_export.json_file import read_json
from seap_export.runtime.session import probe
from validation.benchmarks.runtimes.small_models import KINDS, Kind, write_small_model
from validation.execution import Execution
from validation.parity.run import run_parity
from validation.runtimes.table import REFERENCE, require_runtime

__all__ = ["Cell", "Outcome", "State", "all_cells", "run_cell"]

#: Passed and failed: run. Refused: the format or the runtime does not take the model. Missing: not on this machine.
State = Literal["passed", "failed", "refused", "missing"]
_PROMPTS = (
    "a short prompt",
    "one that is somewhat longer than the first",
    "and a third, which is the longest one here",
)
_STEPS = 4


@dataclass(frozen=True)
class Cell:
    """What is run.

    Attributes:
        runtime: In `validation.runtimes.table.RUNTIMES`.
        format: In `converters.formats.FORMATS`.
        precision: One of the format's.
        family: The `model_type` of the model.
        kind: Which model of the family.
    """

    runtime: str
    format: str
    precision: str
    family: str
    kind: Kind

    @property
    def provider(self) -> str:
        """Where ONNX Runtime runs it: the CPU has no kernels for bf16."""
        return "cuda" if (self.runtime, self.precision) == ("onnxruntime", "bf16") else "cpu"


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        state: In a word.
        max_abs: The largest difference of a logit from torch with the written weights; None: not run.
        mean_kl: The largest mean divergence from it of any case, nats per token; None: not run.
        reason: Why it did not pass, in a line; "": it did.
        versions: The packages that ran it.
    """

    state: State
    max_abs: float | None = None
    mean_kl: float | None = None
    reason: str = ""
    versions: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As it is kept."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Outcome:
        """From what was kept."""
        return cls(**{**values, "versions": tuple((name, version) for name, version in values["versions"])})


def all_cells(only: Collection[str] = (), families: Collection[str] = ()) -> Iterator[Cell]:
    """Every cell, runtime by runtime.

    Args:
        only: The runtimes; empty: all.
        families: The families; empty: all.
    """
    for name in FORMATS:
        format = format_class(name)
        for runtime in format.runtimes:
            if runtime == REFERENCE or (only and runtime not in only):
                continue
            precisions = ("fp32",) if name == "hf" else format.precisions  # what the small models are stored in
            for family in families or supported_families():
                for kind in KINDS:
                    for precision in precisions:
                        yield Cell(runtime, name, precision, family, kind)


def run_cell(cell: Cell, models: Path, threads: int) -> Outcome:
    """Writes the model, and compares the runtime with torch.

    Args:
        cell: Which one.
        models: A folder in which small models are kept.
        threads: Threads of torch and of the runtime.
    """
    model = models / f"{cell.family}-{cell.kind}"
    if not model.is_dir():
        with tempfile.TemporaryDirectory(dir=models) as unfinished:
            write_small_model(Path(unfinished) / model.name, cell.family, cell.kind)
            (Path(unfinished) / model.name).rename(model)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            return _outcome(cell, model, Path(scratch), threads)
        except (InputError, UsageError) as error:
            return Outcome("refused", reason=_line(error, model, scratch))
        except EnvironmentFailure as error:
            return Outcome("missing", reason=_line(error, model, scratch))
        except SeapError as error:
            return Outcome("failed", reason=_line(error, model, scratch))


def _outcome(cell: Cell, model: Path, scratch: Path, threads: int) -> Outcome:
    format, folder = format_class(cell.format)(cell.precision), model
    require_runtime(cell.runtime)
    if cell.provider != "cpu":
        probe(cell.provider)
    if cell.format != "hf":
        folder = scratch
        reason = _refusal(format, model)
        if reason is not None:
            return Outcome("refused", reason=reason)
        format.write(model, folder, lambda layer: None)
    wrong = next(
        (line for faults_of in (format.damages, format.differences) for line in faults_of(model, folder)), None
    )
    if wrong is not None:
        return Outcome("failed", reason=wrong)
    report = run_parity(
        model, folder, _PROMPTS, runtime=cell.runtime, format=format, execution=Execution(cell.provider, threads),
        decode_steps=_STEPS,
    )  # fmt: skip
    versions = tuple(sorted(report.versions.items()))
    return Outcome("passed" if report.passed else "failed", report.max_abs, report.mean_kl, report.failure(), versions)


def _refusal(format: Format, model: Path) -> str | None:
    config = read_json(model / "config.json")
    reason = format.refusal(model_spec(config), config)
    if reason is None:
        require_extra(format.extra, f"the format {format.name}")
    return reason


def _line(error: SeapError, model: Path, scratch: str) -> str:
    return re.sub(rf"({re.escape(str(model))}|{re.escape(scratch)})(: |/)", "", str(error))
