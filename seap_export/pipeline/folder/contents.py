"""Access to an output folder and to a variant's folder; nothing is read before it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from converters.format import Format
from converters.formats import FORMATS, format_class, format_name, read_format
from seap_export.common.json_file import read_json
from seap_export.common.providers import OWN_FORMAT
from seap_export.errors import ArtifactError
from seap_export.model.families import ModelSpec, dense_config, model_spec
from seap_export.model.sources.config import read_spec
from seap_export.model.vocabulary.table import Vocabulary
from seap_export.pipeline.folder.manifest import MANIFEST, Manifest, read_manifest
from seap_export.pipeline.folder.names import HF, PLAN, calibration_step, parity_file, quality_file
from seap_export.pipeline.folder.performance import Performance, read_performance
from seap_export.pruning.activations.statistics import Calibration, CalibrationRecord
from seap_export.pruning.plan.plan import Plan, read_plan


class Export:
    """An output folder of `seap-export export`.

    Attributes:
        path: The folder; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def exists(self) -> bool:
        """Whether the folder is an output folder: it has a manifest."""
        return (self.path / MANIFEST).is_file()

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest of the folder, an empty one if there is none; raises `ArtifactError` if it is damaged."""
        return read_manifest(self.path)

    @cached_property
    def performance(self) -> Performance:
        """The recorded costs of steps and speeds of variants; empty where nothing was recorded."""
        return read_performance(self.path)

    @cached_property
    def variants(self) -> tuple[Variant, ...]:
        """The finished variants, in the order of the manifest."""
        return tuple(map(self.variant, self.manifest.variants))

    def variant(self, name: str) -> Variant:
        """A variant by its name, finished or not."""
        return Variant(self.path / name, self)

    def parts_of(self, variant: str) -> list[str]:
        """The files and folders of a variant that the manifest records as steps."""
        steps = (step.split("/") for step in self.manifest.steps)
        return [part for first, *parts in steps if first == variant for part in parts]


class Variant:
    """A variant's folder, and what lies beside it.

    Attributes:
        path: The folder; it need not exist, and may lack anything.
        name: The name of the folder, also where the path is `.`.
        export: The output folder around it.
    """

    def __init__(self, path: Path, export: Export | None = None) -> None:
        self.path = path
        self.name = path.resolve().name if export is None else path.name
        self.export = Export(path.absolute().parent) if export is None else export

    @property
    def plan_file(self) -> Path:
        return self.path / PLAN

    @property
    def hf(self) -> Path:
        """The path of the variant's model folder."""
        return self.path / HF

    @property
    def config_file(self) -> Path:
        """The path of the model folder's config.json."""
        return self.hf / "config.json"

    @property
    def own(self) -> FormatFolder:
        """The folder that `generate` runs, which need not exist."""
        return FormatFolder(self.path / OWN_FORMAT)

    @cached_property
    def plan(self) -> Plan:
        """The plan; raises `ArtifactError` if it is missing or damaged."""
        return read_plan(self.plan_file)

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The tokens that the variant keeps; None: all, or there is no plan."""
        return self.plan.vocabulary if self.plan_file.is_file() else None

    @cached_property
    def spec(self) -> ModelSpec:
        """The shapes of the model; raises `InputError` if its config.json is missing or damaged."""
        return read_spec(self.hf)

    @cached_property
    def dense_spec(self) -> ModelSpec:
        """The shapes of the dense model that the variant was made from, with all tokens; raises as `spec`."""
        dense = model_spec(dense_config(read_json(self.config_file)))
        return dense if self.vocabulary is None else dense.with_tokens(self.vocabulary.of)

    @cached_property
    def folders(self) -> Mapping[str, FormatFolder]:
        """The folders that a format wrote, by name: `hf` first, then by the order of `FORMATS` and by name."""
        order = list(FORMATS)
        inside = self.path.iterdir() if self.path.is_dir() else ()
        folders = [FormatFolder(path) for path in inside if path.is_dir() and format_name(path.name) in FORMATS]
        folders.sort(key=lambda folder: (order.index(format_name(folder.name)), folder.name))
        return {folder.name: folder for folder in folders}

    @property
    def formats(self) -> list[FormatFolder]:
        """The folders that formats wrote, except `hf`."""
        return [folder for folder in self.folders.values() if folder.name != HF]

    def run_by(self, runtime: str) -> FormatFolder | None:
        """The first folder whose format a runtime can run; None: there is none."""
        return next((folder for folder in self.folders.values() if runtime in folder.runtimes), None)

    def calibrations(self) -> list[Calibration]:
        """The statistics of the tasks that it was made for, which `export` keeps in the same output folder.

        Raises:
            ArtifactError: The folder is not a variant, or the statistics of a task are missing.
        """
        self.require(PLAN)
        for folder in self._calibration_folders:
            if not folder.is_dir():
                raise ArtifactError(f"{self.path}: no held-out texts at {folder}; give prompts with --prompt-file")
        return [Calibration(folder) for folder in self._calibration_folders]

    @cached_property
    def records(self) -> tuple[CalibrationRecord, ...] | None:
        """The calibration records of its tasks; None if the statistics are not beside it.

        Raises:
            ArtifactError: The plan or the statistics are damaged.
        """
        if not all(folder.is_dir() for folder in self._calibration_folders):
            return None
        return tuple(calibration.record for calibration in self.calibrations())

    @property
    def _calibration_folders(self) -> list[Path]:
        return [self.path.absolute().parent / calibration_step(task) for task in self.plan.weights]

    def require(self, *parts: str) -> None:
        """Raises `ArtifactError` if the folder, or a part of it, is missing."""
        if not self.path.is_dir():
            raise ArtifactError(f"{self.path}: no such folder; give a variant's folder, such as OUT/TASK-0.2")
        for part in parts:
            if not (self.path / part).exists():
                remedy = "give --prompt-file" if part == PLAN else "give a variant's folder, such as OUT/TASK-0.2"
                raise ArtifactError(f"{self.path}: {part} is missing; {remedy}")


@dataclass(frozen=True)
class FormatFolder:
    """A folder of a variant that a format wrote, such as `gguf-q8_0`."""

    path: Path

    @property
    def name(self) -> str:
        """The folder's name within the variant."""
        return self.path.name

    @property
    def runtimes(self) -> tuple[str, ...]:
        """The runtimes of the folder's format; it is compared with torch in the first."""
        return tuple(format_class(format_name(self.name)).runtimes)

    @property
    def parity_file(self) -> Path:
        """The report of its comparison with torch, which need not exist."""
        return self.path.with_name(parity_file(self.name))

    @property
    def quality_file(self) -> Path:
        """The report of its comparison with the dense model, which need not exist."""
        return self.path.with_name(quality_file(self.name))

    @cached_property
    def format(self) -> Format:
        """The format; raises `ArtifactError` if its files do not say which precision they have."""
        return read_format(self.path)


def open_folder(path: Path) -> Export | Variant | None:
    """Opens an output folder, or a variant with a plan; None if the path is neither."""
    export, variant = Export(path), Variant(path)
    return export if export.exists else variant if variant.plan_file.is_file() else None
