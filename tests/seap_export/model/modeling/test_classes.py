"""The classes of pruned models are made of transformers' own when they are asked for."""

from __future__ import annotations

import pickle

import pytest
import transformers
from support.models import why_not_loaded
from support.variations import FAMILIES

from seap_export.model.families import family_of_model_type
from seap_export.model.modeling import configuration_seap, modeling_seap


@pytest.mark.parametrize("model_type", FAMILIES)
def test_they_are_transformers_own_with_another_name(model_type: str) -> None:
    family = family_of_model_type(model_type)
    if reason := why_not_loaded(family, "uniform"):
        pytest.skip(reason)
    stock = getattr(transformers, family.architecture)
    stem = family.stem
    model_class = getattr(modeling_seap, f"Seap{stem}ForCausalLM")
    base_class = getattr(modeling_seap, f"Seap{stem}Model")
    config_class = getattr(configuration_seap, f"Seap{stem}Config")
    assert issubclass(model_class, stock)
    assert issubclass(base_class, transformers.MODEL_MAPPING[stock.config_class])
    assert issubclass(config_class, stock.config_class)
    assert model_class.config_class is base_class.config_class is config_class
    assert config_class.model_type == f"seap_{model_type}"
    for made in (model_class, base_class, config_class):
        assert pickle.loads(pickle.dumps(made)) is made


@pytest.mark.parametrize(
    ("module", "suffix"), [(configuration_seap, "Config"), (modeling_seap, "ForCausalLM"), (modeling_seap, "Model")]
)
def test_a_class_that_transformers_lacks_is_refused_by_name(module: object, suffix: str) -> None:
    with pytest.raises(AttributeError, match=r"transformers \S+ has no NobodyForCausalLM; install a newer release"):
        getattr(module, f"SeapNobody{suffix}")
    assert not any(hasattr(module, name) for name in ("SeapConfig", "LlamaForCausalLM", "SeapLlama", "SeapModel"))
