"""Registers the pruned families with transformers' auto classes without importing transformers.

Importing the modelling code takes seconds, which `seap-export --help` and writing an ONNX file do not need. So a
finder on `sys.meta_path` waits until the program itself imports the auto classes and registers stand-ins there; a
stand-in imports the real classes when the config of a pruned model is first read.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_AUTO_CONFIGS = "transformers.models.auto.configuration_auto"


def register_pruned_families() -> None:
    """Registers all pruned families, now or as soon as the auto classes are imported."""
    if _AUTO_CONFIGS in sys.modules:
        _register(sys.modules[_AUTO_CONFIGS])
    else:
        sys.meta_path.insert(0, _RegisterAfterImport())


def _register(auto: ModuleType) -> None:
    from seap_export.model.families.family import PRUNED_PREFIX
    from seap_export.model.families.files import families

    for family in families():
        stand_in = _stand_in(PRUNED_PREFIX + family.model_type, f"Seap{family.stem}ForCausalLM")
        auto.CONFIG_MAPPING.register(stand_in.model_type, stand_in, exist_ok=True)


def register_models(architecture: str) -> Any:
    """Registers the model classes of a family, such as "SeapLlamaForCausalLM"; returns its config class."""
    from transformers import AutoModel, AutoModelForCausalLM

    modeling = importlib.import_module("seap_export.model.modeling.modeling_seap")
    model_class = getattr(modeling, architecture)
    base_class = getattr(modeling, architecture.replace("ForCausalLM", "Model"))
    AutoModelForCausalLM.register(model_class.config_class, model_class, exist_ok=True)
    AutoModel.register(base_class.config_class, base_class, exist_ok=True)
    return model_class.config_class


def _stand_in(name: str, architecture: str) -> type[Any]:
    class LazyConfig:
        """Becomes the real config class when a config is read or created."""

        model_type = name

        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            return register_models(architecture)(*args, **kwargs)

        @classmethod
        def from_dict(cls, *args: Any, **kwargs: Any) -> Any:
            return register_models(architecture).from_dict(*args, **kwargs)

    return LazyConfig


class _RegisterAfterImport(MetaPathFinder):
    """Imports `configuration_auto` in the ordinary way, then registers the families in it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _AUTO_CONFIGS:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_then_register(module: ModuleType) -> None:
                execute(module)
                _register(module)

            spec.loader.exec_module = execute_then_register  # type: ignore[method-assign]
        return spec
