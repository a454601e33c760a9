"""The packages of OpenVINO, imported only when something is written or run."""

from __future__ import annotations

import importlib
from types import ModuleType

from seap_export.errors import EnvironmentFailure
from seap_export.extras import install_remedy

__all__ = ["EXTRA", "require"]

#: The extra of this package that installs them.
EXTRA = "openvino"


def require(name: str) -> ModuleType:
    """Imports one of OpenVINO's packages, such as `openvino` or `openvino_tokenizers`.

    Raises:
        EnvironmentFailure: It is missing, or a library that it needs is.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        reason = " ".join(str(error).split())
        raise EnvironmentFailure(f"{name} cannot be imported ({reason:.120}); {install_remedy(EXTRA)}") from error
