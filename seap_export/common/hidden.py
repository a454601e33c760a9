"""Finds files of somebody else that hide the packages which are installed beside this one."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from seap_export.errors import EnvironmentFailure

_BESIDE = ("converters", "validation")


def refuse_hidden() -> None:
    """Refuses to go on where Python would import another `converters` or `validation`, such as a script's neighbour.

    Raises:
        EnvironmentFailure: One of them is hidden, or missing.
    """
    home = Path(__file__).parents[2]
    for name in _BESIDE:
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            raise EnvironmentFailure(f"the package '{name}' of seap-export is missing; install seap-export again")
        if Path(spec.origin).parents[1].resolve() != home.resolve():
            raise EnvironmentFailure(f"{spec.origin} hides the package '{name}' of seap-export; rename it")
