"""Runs an export with only numpy, onnxruntime, tokenizers and jinja2: no torch, no transformers."""

from seap_export.runtime.chat import Message, Prompt
from seap_export.runtime.decoding.sampling import GREEDY, Sampling
from seap_export.runtime.dialogue import Dialogue
from seap_export.runtime.generator import Completion, Generator, Stream
from seap_export.runtime.golden import GoldenComparison, compare_with_golden
from seap_export.runtime.routed_model import Route, RoutedModel
from seap_export.runtime.router import Router

__all__ = [
    "GREEDY", "Completion", "Dialogue", "Generator", "GoldenComparison", "Message", "Prompt", "Route", "RoutedModel",
    "Router", "Sampling", "Stream", "compare_with_golden",
]  # fmt: skip
