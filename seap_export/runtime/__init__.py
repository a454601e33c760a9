"""Runs an export with numpy, onnxruntime and tokenizers alone: no torch, no transformers."""

from seap_export.runtime.generator import Generator
from seap_export.runtime.routed_model import Route, RoutedModel
from seap_export.runtime.router import Router

__all__ = ["Generator", "Route", "RoutedModel", "Router"]
