"""Pruned variants in optimum-onnx: `from seap_export.optimum_onnx import SeapORTModelForCausalLM`.

optimum-onnx is no dependency of this package: it wants transformers below 4.58. It is imported with the class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from seap_export.errors import EnvironmentFailure

if TYPE_CHECKING:
    from seap_export.optimum_onnx.model import SeapORTModelForCausalLM

__all__ = ["SeapORTModelForCausalLM"]


def __getattr__(name: str) -> Any:
    """Imports the class when it is first asked for.

    Raises:
        EnvironmentFailure: optimum-onnx is not installed, or does not fit what is.
    """
    if name != "SeapORTModelForCausalLM":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from seap_export.optimum_onnx.model import SeapORTModelForCausalLM
    except (ImportError, RuntimeError) as error:  # transformers' lazy modules wrap the one in the other
        reason = " ".join(str(error).split())
        raise EnvironmentFailure(
            f"optimum-onnx cannot be imported ({reason}); install it with: pip install 'seap-export[optimum-onnx]'"
        ) from error
    return SeapORTModelForCausalLM
