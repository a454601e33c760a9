"""The optional packages: those that an extra of this package installs, and those of them that are missing."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from types import ModuleType

from packaging.requirements import Requirement

from seap_export.errors import EnvironmentFailure

#: The folder of the source, if this package was not installed.
_SOURCE = Path(__file__).parents[2]


def missing_packages(extra: str) -> list[str]:
    """The packages of an extra that are not installed, or in another version, as requirements; none: it is usable."""
    return [str(requirement) for requirement in _packages(extra) if not _is_installed(requirement)]


def optional_extras() -> list[str]:
    """The extras of this package, but for the one that is for its developers."""
    try:
        extras = metadata("seap-export").get_all("Provides-Extra") or []
    except PackageNotFoundError:
        return []
    return sorted(name for name in extras if name != "dev")


def installed_versions(extra: str) -> dict[str, str]:
    versions = {}
    for requirement in _packages(extra):
        with suppress(PackageNotFoundError):
            versions[requirement.name] = version(requirement.name)
    return versions


def require_extra(extra: str | None, what: str) -> None:
    """Refuses to go on without the packages of an extra.

    Args:
        extra: Its name; None: nothing is needed.

    Raises:
        EnvironmentFailure: Some are missing.
    """
    missing = [] if extra is None else missing_packages(extra)
    if missing:
        raise EnvironmentFailure(f"{what} needs {', '.join(missing)}; {install_remedy(str(extra))}")


def import_of_extra(extra: str, name: str) -> ModuleType:
    """Imports a module of an extra's packages.

    Raises:
        EnvironmentFailure: It is missing, or a library that it needs is.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        reason = " ".join(str(error).split())
        raise EnvironmentFailure(f"{name} cannot be imported ({reason:.120}); {install_remedy(extra)}") from error


def install_remedy(extra: str) -> str:
    """How to install the packages of an extra: by their names, for no package index need have this package itself."""
    packages = [f'"{requirement}"' for requirement in _packages(extra)]
    if packages:
        return f"run: pip install {' '.join(packages)}"
    if extra in optional_extras():
        return "there are no packages for this system"
    return f'run: pip install "{_SOURCE}[{extra}]"'


def _packages(extra: str) -> Iterator[Requirement]:
    """The requirements that the metadata name for an extra, or always if it is "", on this system."""
    try:
        texts = requires("seap-export") or []
    except PackageNotFoundError:  # the source tree on PYTHONPATH; imports will say what is missing
        return
    for requirement in map(Requirement, texts):
        marker = requirement.marker
        is_optional = marker is not None and not marker.evaluate({"extra": ""})
        if is_optional == bool(extra) and (marker is None or marker.evaluate({"extra": extra})):
            requirement.marker = None
            yield requirement


def _is_installed(requirement: Requirement) -> bool:
    try:
        return requirement.specifier.contains(version(requirement.name), prereleases=True)
    except PackageNotFoundError:
        return False
