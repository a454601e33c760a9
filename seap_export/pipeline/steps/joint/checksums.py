"""The lists of checksums: SHA256SUMS in each folder of a format, in each variant's folder and in the router's."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from converters.formats import FORMATS, format_name
from seap_export.common.checksums import SUMS, checksums_text
from seap_export.pipeline.folder.whole import read_whole
from seap_export.pipeline.steps.step import Made, Step
from seap_export.runtime.manifest import ROUTER_FOLDER


@dataclass(frozen=True)
class ChecksumStep(Step):
    """Writes the hashes of the manifest into the folders themselves, once all their other files are made."""

    def run(self, made: Made) -> None:
        """Writes the lists that are missing or outdated."""
        workspace = made.workspace
        steps = workspace.manifest.steps
        for step in [step for step in steps if step.endswith(f"/{SUMS}")]:
            folder = step.rpartition("/")[0]
            if "/" in folder and folder not in steps:  # which --force has removed
                workspace.remove(step)
        for name in made.variants:
            folders = [step for step in sorted(steps) if _is_folder_of(name, step)]
            for folder in folders:
                _write(made, folder)
            _write(made, name, folders)
            made.enter(name)
        for name in (ROUTER_FOLDER, *read_whole(made.work.folder)):
            if name in steps:
                _write(made, name)


def _is_folder_of(variant: str, step: str) -> bool:
    first, _, folder = step.partition("/")
    return first == variant and format_name(folder) in FORMATS and "/" not in folder


def _write(made: Made, folder: str, inner: Sequence[str] = ()) -> None:
    """Writes a folder's list, which names the lists of the inner folders in the place of their files."""
    if not (made.work.folder / folder).is_dir():  # somebody removed it, which the validation reports
        return
    files, step = made.workspace.manifest.files, f"{folder}/{SUMS}"
    lists = {f"{name}/{SUMS}" for name in inner}
    covered = tuple(f"{name}/" for name in inner)
    names = [
        name
        for name in files
        if name.startswith(f"{folder}/") and name != step and (name in lists or not name.startswith(covered))
    ]
    digests = {name.removeprefix(f"{folder}/"): files[name]["sha256"] for name in names}
    content = checksums_text(digests).encode()
    made.write_file(step, content, hashlib.sha256(content).hexdigest())
