"""Zero-shot accuracy of dense models and variants, measured with EleutherAI's lm-evaluation-harness."""

from validation.zero_shot.evaluate import evaluate_zero_shot
from validation.zero_shot.figures import ZeroShotFigures
from validation.zero_shot.questions import Question, read_questions
from validation.zero_shot.tasks import HarnessTask, hub_tasks, local_task

__all__ = [
    "HarnessTask",
    "Question",
    "ZeroShotFigures",
    "evaluate_zero_shot",
    "hub_tasks",
    "local_task",
    "read_questions",
]
