"""How fast models run, beside each other, and how much of the ideal speed-up they reach."""

from validation.speed.engines import Engine, open_engine
from validation.speed.ideal import Work, model_work
from validation.speed.measure import Cell, Timing, measure_speed
from validation.speed.report import SpeedReport, SubjectFigures

__all__ = [
    "Cell",
    "Engine",
    "SpeedReport",
    "SubjectFigures",
    "Timing",
    "Work",
    "measure_speed",
    "model_work",
    "open_engine",
]
