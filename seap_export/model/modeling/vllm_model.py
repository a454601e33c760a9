"""vLLM's class around models of transformers, for pruned ones: it finds their classes in every process of vLLM's."""

from __future__ import annotations

from typing import Any

from vllm.model_executor.models.transformers import TransformersForCausalLM

from seap_export.model.modeling.registration import register_models


class PrunedForCausalLM(TransformersForCausalLM):
    """A pruned model in vLLM.

    transformers learns of model classes when it reads a config, but vLLM's workers get theirs from another process.
    """

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        (architecture,) = vllm_config.model_config.hf_config.architectures
        register_models(architecture)
        super().__init__(vllm_config=vllm_config, prefix=prefix)
