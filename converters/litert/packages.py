"""The packages of LiteRT, imported only when something is written, read or run."""

from __future__ import annotations

from functools import partial
from typing import Any

from seap_export.common.extras import import_of_extra

#: The extra of this package that installs LiteRT's packages.
EXTRA = "litert"
#: Imports a module of LiteRT's packages; see `import_of_extra`.
require = partial(import_of_extra, EXTRA)


def schema() -> Any:
    """The module with the classes of LiteRT's flatbuffer; raises `EnvironmentFailure` if it is not installed."""
    return require("ai_edge_litert.schema_py_generated")
