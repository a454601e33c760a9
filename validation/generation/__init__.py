"""Exact match of generated answers: how many questions a model answers rightly when it writes the answer itself."""

from validation.generation.evaluate import evaluate_generation
from validation.generation.figures import GenerationFigures
from validation.generation.questions import OpenQuestion, OpenTask, open_task

__all__ = ["GenerationFigures", "OpenQuestion", "OpenTask", "evaluate_generation", "open_task"]
