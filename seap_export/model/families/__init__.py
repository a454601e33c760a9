"""The supported model families, each described by a TOML file in this package."""

from seap_export.model.families.family import Family, is_pruned
from seap_export.model.families.files import family_of_gguf, family_of_model_type, wrapper_of_model_type
from seap_export.model.families.layer_spec import LayerSpec
from seap_export.model.families.parts import GgufForm
from seap_export.model.families.read import dense_config, language_config, model_spec
from seap_export.model.families.rope import QueryScaling, RopeSpec
from seap_export.model.families.spec import BlockSpec, ModelSpec, NormSpec
from seap_export.model.families.sublayers import (
    Attention,
    Convolution,
    DeltaNet,
    Experts,
    LayerInput,
    Mamba,
    Mlp,
    SharedExpert,
    Sublayer,
)

__all__ = [
    "Attention", "BlockSpec", "Convolution", "DeltaNet", "Experts", "Family", "GgufForm", "LayerInput", "LayerSpec",
    "Mamba", "Mlp", "ModelSpec", "NormSpec", "QueryScaling", "RopeSpec", "SharedExpert", "Sublayer", "dense_config",
    "family_of_gguf", "family_of_model_type", "is_pruned", "language_config", "model_spec", "wrapper_of_model_type",
]  # fmt: skip
