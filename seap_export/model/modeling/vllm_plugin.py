"""Lets vLLM serve pruned models without trust_remote_code where this package is installed.

vLLM loads the entry points of `vllm.general_plugins` in each of its processes. Importing this package has registered
the configs of pruned models with transformers by then; what is left is to name the class that runs the models.
"""

from __future__ import annotations

#: Named and not imported, since importing it may start CUDA too early.
_CLASS = "seap_export.model.modeling.vllm_model:PrunedForCausalLM"


def register_with_vllm() -> None:
    """Registers the architectures of all pruned families."""
    from vllm import ModelRegistry

    from seap_export.model.families.files import families

    for family in families():
        ModelRegistry.register_model(f"Seap{family.stem}ForCausalLM", _CLASS)
