"""Runs an export with only numpy, onnxruntime, tokenizers and jinja2: no torch, no transformers."""

from seap_export.runtime.chat import Message, Prompt
from seap_export.runtime.generator import Completion, Generator
from seap_export.runtime.routed_model import Route, RoutedModel
from seap_export.runtime.router import Router
from seap_export.runtime.sampling import GREEDY, Sampling

__all__ = ["GREEDY", "Completion", "Generator", "Message", "Prompt", "Route", "RoutedModel", "Router", "Sampling"]
