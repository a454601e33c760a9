"""Pruned variants in optimum-onnx: `from seap_export.optimum_onnx import SeapORTModelForCausalLM`.

optimum-onnx is not a dependency of this package, because it needs transformers below 4.58. Using the class imports it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from seap_export.errors import EnvironmentFailure

if TYPE_CHECKING:
    from seap_export.optimum_onnx.model import SeapORTModelForCausalLM

__all__ = ["SeapORTModelForCausalLM"]


def __getattr__(name: str) -> Any:
    """Imports the class on first use.

    Raises:
        EnvironmentFailure: optimum-onnx is not installed, or is incompatible with other installed packages.
    """
    if name != "SeapORTModelForCausalLM":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from seap_export.optimum_onnx.model import SeapORTModelForCausalLM
    except (ImportError, RuntimeError) as error:  # transformers' lazy modules wrap an ImportError in a RuntimeError
        reason = " ".join(str(error).split())
        raise EnvironmentFailure(
            f"optimum-onnx cannot be imported ({reason}); install the extra 'optimum-onnx' (see README)"
        ) from error
    return SeapORTModelForCausalLM
