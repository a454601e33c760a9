"""seap-export: per-task pruning of decoder models to safetensors and ONNX, with proof of parity.

Importing this package lets `AutoModelForCausalLM.from_pretrained` load the pruned models it writes. Its functions do
what the commands of the same names do; they are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from seap_export.common.hidden import refuse_hidden
from seap_export.model.modeling.registration import register_pruned_families

if TYPE_CHECKING:
    from seap_export.api.convert import convert
    from seap_export.api.evaluate import evaluate
    from seap_export.api.export import export
    from seap_export.api.prune import prune
    from seap_export.api.push import push
    from seap_export.api.validate import validate
    from seap_export.api.variant import Variant

__all__ = ["Variant", "__version__", "convert", "evaluate", "export", "prune", "push", "validate"]

__version__ = "1.0.0"

register_pruned_families()


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    refuse_hidden()
    globals()[name] = value = getattr(import_module(f"{__name__}.api.{name.lower()}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
