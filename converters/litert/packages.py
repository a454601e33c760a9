"""The packages of LiteRT, imported only when something is written, read or run."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from seap_export.errors import EnvironmentFailure
from seap_export.extras import install_remedy

__all__ = ["EXTRA", "require", "schema"]

#: The extra of this package that installs them.
EXTRA = "litert"


def require(name: str) -> ModuleType:
    """Imports a module of LiteRT's packages.

    Raises:
        EnvironmentFailure: It is missing, or a library that it needs is.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        reason = " ".join(str(error).split())
        raise EnvironmentFailure(f"{name} cannot be imported ({reason:.120}); {install_remedy(EXTRA)}") from error


def schema() -> Any:
    """The classes of a program's flatbuffer; raises `EnvironmentFailure`."""
    return require("ai_edge_litert.schema_py_generated")
