"""The supported model families, each described by a small TOML file in this package."""

from seap_export.families.family import Family, family_of_gguf, family_of_model_type, is_pruned, supported_families
from seap_export.families.gguf_form import GgufForm
from seap_export.families.spec import LayerSpec, ModelSpec, RopeSpec, dense_config, model_spec

__all__ = [
    "Family",
    "GgufForm",
    "LayerSpec",
    "ModelSpec",
    "RopeSpec",
    "dense_config",
    "family_of_gguf",
    "family_of_model_type",
    "is_pruned",
    "model_spec",
    "supported_families",
]
