"""Runs an export with only numpy, onnxruntime and tokenizers: no torch, no transformers."""

from seap_export.runtime.generator import Completion, Generator
from seap_export.runtime.routed_model import Route, RoutedModel
from seap_export.runtime.router import Router
from seap_export.runtime.sampling import GREEDY, Sampling

__all__ = ["GREEDY", "Completion", "Generator", "Route", "RoutedModel", "Router", "Sampling"]
