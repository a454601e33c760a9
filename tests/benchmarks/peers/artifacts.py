"""Writes each exporter's artifact in a separate process, and measures time and memory."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.process import measure

from seap_export.errors import ArtifactError

_RECORD = "written.json"


@dataclass(frozen=True)
class Environments:
    """The interpreters that run the exporters.

    Attributes:
        main: Has this package.
        genai: Has onnxruntime-genai, onnx-ir, torch and transformers.
    """

    main: Path
    genai: Path


@dataclass(frozen=True)
class Artifact:
    """One exporter's ONNX form of the model.

    Attributes:
        name: Unique, and the name of its folder.
        precision: Precision of its weights: fp32, int8 or int4.
        folder: Folder of its files, including model.onnx.
        command: Writes them.
    """

    name: str
    precision: str
    folder: Path
    command: tuple[str, ...]

    @property
    def is_ours(self) -> bool:
        """This package wrote it."""
        return self.name.startswith("ours")

    @property
    def record(self) -> Path:
        """The file that says that it was written, and at which cost."""
        return self.folder.parent / _RECORD

    @property
    def graph(self) -> Path:
        """The .onnx file."""
        return self.folder / "model.onnx"


@dataclass(frozen=True)
class Written:
    """The cost of writing an artifact.

    Attributes:
        model: Folder of the model that it was made from.
        wall_s: Seconds of the whole process.
        peak_bytes: Its peak resident memory; None if it was not measured.
        onnx_bytes: Graph and data on disk.
        is_reused: Whether it existed already; the other figures are then of the run that wrote it.
    """

    model: str
    wall_s: float
    peak_bytes: int | None
    onnx_bytes: int
    is_reused: bool


def all_artifacts(model: Path, work: Path, environments: Environments) -> list[Artifact]:
    """Every artifact, grouped by precision; the first of each precision is the builder's."""
    artifacts = []
    for precision in ("fp32", "int8", "int4"):
        commands = _builder(model, environments.genai, precision, work / "cache")
        commands |= _ours(model, environments.main, precision)
        artifacts += [_artifact(name, precision, work, command) for name, command in commands.items()]
    return artifacts


def write(artifact: Artifact, model: Path) -> Written:
    """Writes an artifact, or reuses an existing one; the exporter's output goes to stderr.

    Raises:
        ArtifactError: The existing artifact was made from another model.
        RuntimeError: The exporter failed.
    """
    home, record = artifact.folder.parent, artifact.record
    if record.is_file():
        return _reused(record, model)
    shutil.rmtree(home, ignore_errors=True)  # left behind by a run that was stopped
    home.mkdir(parents=True)
    print(f"writing {artifact.name}", file=sys.stderr)
    figures = measure(artifact.command)
    size = sum(path.stat().st_size for path in artifact.folder.glob("model.onnx*"))
    written = Written(str(model.resolve()), figures.wall_s, figures.peak_bytes, size, is_reused=False)
    record.write_text(json.dumps(asdict(written), indent=1) + "\n", "utf-8", newline="\n")
    return written


def _reused(record: Path, model: Path) -> Written:
    values: dict[str, Any] = json.loads(record.read_text("utf-8"))
    if values["model"] != str(model.resolve()):
        raise ArtifactError(f"{record.parent} was made from {values['model']}; give another folder as --work")
    print(f"reusing {record.parent.name}", file=sys.stderr)
    return Written(**{**values, "is_reused": True})


def _artifact(name: str, precision: str, work: Path, command: tuple[str, ...]) -> Artifact:
    folder = work / name / "onnx"
    return Artifact(name, precision, folder, tuple(str(folder) if word == "OUT" else word for word in command))


def _builder(model: Path, python: Path, precision: str, cache: Path) -> dict[str, tuple[str, ...]]:
    """onnxruntime-genai's, with logits of all positions and of the last; int8 and int4 in blocks of 32, as ours."""
    command = [str(python), "-I", "-m", "onnxruntime_genai.models.builder", "-p", precision, "-e", "cpu"]
    command += ["-i", str(model), "-o", "OUT", "-c", str(cache)]
    return {
        f"genai-{precision}": tuple(command),
        f"genai-{precision}-last": (*command, "--extra_options", "prune_lm_head=true"),
    }


def _ours(model: Path, python: Path, precision: str) -> dict[str, tuple[str, ...]]:
    command = [str(python), "-c", "from seap_export.cli import main; main()", "convert", "--quiet", str(model)]
    command += ["--precision", precision, "--out", "OUT"]
    forms: dict[str, tuple[str, ...]] = {"": ("--logits", "all"), "-last": ("--logits", "last")}
    if precision == "fp32":
        forms["-standard"] = ("--logits", "all", "--dialect", "standard")
    return {f"ours-{precision}{form}": (*command, *options) for form, options in forms.items()}
