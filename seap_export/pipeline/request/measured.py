"""Which folder of a variant an export measures beside the dense model, and in which runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from converters.format import Format
from converters.formats import FORMATS
from seap_export.common.providers import OWN_FORMAT, OWN_RUNTIME
from validation.runtimes.table import RUNTIMES, runtime_title, with_providers


@dataclass(frozen=True)
class Measured:
    """A folder that is measured in the first runtime of its format."""

    folder: str
    format: Format

    @property
    def runtime(self) -> str:
        """The runtime that runs the folder: the first of its format."""
        return self.format.runtimes[0]

    def provider(self, asked: str) -> str:
        """The execution provider to run on if this one is asked for: the CPU where the runtime has no providers."""
        return asked if with_providers([self.runtime]) else "cpu"

    def to_json(self) -> dict[str, str]:
        """The folder and its runtime, as reports and the manifest record them."""
        return {"folder": self.folder, "runtime": self.runtime}


def measured_of(folders: Mapping[str, Format]) -> Measured | None:
    """The folder to measure: the one that `generate` runs if it is written, else the first; None if there is none."""
    folder = OWN_FORMAT if OWN_FORMAT in folders else next(iter(folders), None)
    return None if folder is None else Measured(folder, folders[folder])


def measured_title(figures: Mapping[str, Any]) -> str:
    """The folder and runtime that figures belong to, in words; figures without these are those of our own runtime."""
    folder, runtime = figures.get("folder", OWN_FORMAT), str(figures.get("runtime", OWN_RUNTIME))
    title = runtime_title(runtime) if runtime in RUNTIMES else runtime  # a file that was changed may say anything
    return f"the {FORMATS[OWN_FORMAT].title} file" if folder == OWN_FORMAT else f"{folder} in {title}"
