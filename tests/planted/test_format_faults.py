"""Faults planted in what formats write, each stopped without running it, with the exit code that fits."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from planted.formats.others import other_faults
from planted.formats.planting import DAMAGE, PARITY, FormatFault, Subject, file_faults
from planted.formats.weights import weight_faults
from support.exports import tree
from support.formats.written import WrittenModel

from converters.comparison import compare
from converters.formats import format_class
from seap_export.errors import ArtifactError

pytestmark = pytest.mark.release
#: By format, with what its tests need.
_NEEDS = {"gguf": None, "mlx": None, "openvino": "openvino", "litert": "litert", "executorch": "executorch"}
SUBJECTS: dict[str, Subject] = {name: import_module(f"planted.formats.{name}").SUBJECT for name in _NEEDS}
Good = Callable[[str, str], WrittenModel]


def faults_of(subject: Subject) -> tuple[FormatFault, ...]:
    """All faults that are planted in a format."""
    return (*weight_faults(subject), *other_faults(subject), *file_faults(subject), *subject.own)


def _marks(name: str, fault: FormatFault | None = None) -> list[Any]:
    needed = _NEEDS[name]
    marks = [] if needed is None else [pytest.mark.needs(needed)]
    return marks if fault is None else [*marks, pytest.mark.planted(name)]


FAULTS = {name: faults_of(subject) for name, subject in SUBJECTS.items()}
CASES = [
    pytest.param(name, fault, id=f"{name} {fault.id}".replace(" ", "_"), marks=_marks(name, fault))
    for name, faults in FAULTS.items()
    for fault in faults
]
ARTIFACTS = [
    pytest.param(name, base, marks=_marks(name)) for name, subject in SUBJECTS.items() for base in subject.bases
]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Good:
    """`good("gguf", "q8_0")`: an artifact, written once; not to be changed."""

    @cache
    def write(name: str, base: str) -> WrittenModel:
        chosen = SUBJECTS[name].bases[base]
        source = chosen.write_model(tmp_path_factory.mktemp(base) / "hf")
        return WrittenModel.of(format_class(name)(chosen.precision), source)

    return write


@pytest.fixture
def copied(good: Good, tmp_path: Path) -> Good:
    """The same to plant a fault in."""

    def copy(name: str, base: str) -> WrittenModel:
        original = good(name, base)
        return replace(original, folder=Path(shutil.copytree(original.folder, tmp_path / name)))

    return copy


def verdict(made: WrittenModel) -> tuple[int, str]:
    """The exit code of `seap-export validate` before it runs a model, and the first line that it says."""
    try:
        comparison = compare(made.format, made.source, made.folder)
    except ArtifactError as error:
        return DAMAGE, str(error)
    if comparison.form:
        return DAMAGE, comparison.form[0]
    return (PARITY, comparison.weights[0]) if comparison.weights else (0, "")


@pytest.mark.parametrize(("name", "base"), ARTIFACTS)
def test_a_good_artifact_passes(good: Good, name: str, base: str) -> None:
    assert verdict(good(name, base)) == (0, "")


@pytest.mark.parametrize(("name", "fault"), CASES)
def test_a_fault_is_stopped(good: Good, copied: Good, name: str, fault: FormatFault) -> None:
    made = copied(name, fault.base)
    fault.plant(made)
    assert tree(made.folder) != tree(good(name, fault.base).folder), "nothing was planted"
    code, line = verdict(made)
    assert code in fault.codes, line
    assert line
    assert "\n" not in line
