"""seap-export: per-task pruning of decoder models to safetensors and ONNX, with proof of parity.

Importing this package lets `AutoModelForCausalLM.from_pretrained` load the pruned models it writes.
"""

from seap_export.modeling.registration import register_pruned_families

__all__ = ["__version__"]

__version__ = "0.1.0"

register_pruned_families()
