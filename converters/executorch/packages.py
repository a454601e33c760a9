"""The modules of ExecuTorch, imported only when something is written, read or run."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from seap_export.common.extras import import_of_extra
from seap_export.common.stderr import silent_stderr

#: The extra of this package that installs ExecuTorch.
EXTRA = "executorch"


def require(name: str) -> Any:
    """Imports a module of ExecuTorch; see `import_of_extra`."""
    if name in sys.modules:
        return sys.modules[name]
    with quiet():
        return import_of_extra(EXTRA, name)


@contextmanager
def quiet() -> Iterator[None]:
    """Silences warnings and stderr, where ExecuTorch reports processors and optional parts; errors are exceptions."""
    with silent_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def program_schema() -> Any:
    """The module with the classes of a serialised program; raises `EnvironmentFailure` if it is not installed."""
    return require("executorch.exir.schema")


def graph_schema() -> Any:
    """The module with the classes of an XNNPACK graph; raises `EnvironmentFailure` if it is not installed."""
    return require("executorch.backends.xnnpack.serialization.xnnpack_graph_schema")
