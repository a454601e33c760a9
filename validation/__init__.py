"""Export parity: does an ONNX graph compute what its torch model computes?"""

from validation.metrics import Defect, LogitComparison, LogitFigures, Place, kl_divergence
from validation.parity import run_parity
from validation.report import ParityReport, StageResult

__all__ = [
    "Defect",
    "LogitComparison",
    "LogitFigures",
    "ParityReport",
    "Place",
    "StageResult",
    "kl_divergence",
    "run_parity",
]
