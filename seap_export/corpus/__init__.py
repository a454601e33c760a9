"""Reads files and data sets, turns their records into texts, and splits the texts."""

from seap_export.common.templates import render
from seap_export.corpus.answers import LAST_NUMBER, AnswerRule
from seap_export.corpus.conversation import Chat, JoinedTurns
from seap_export.corpus.job import labels_of
from seap_export.corpus.parse import parse_task, parse_tasks
from seap_export.corpus.readers import read_records
from seap_export.corpus.split import Split, check_disjoint, split_samples, text_digest
from seap_export.corpus.task import ChoiceCompletion, Sample, Task, TemplateCompletion

__all__ = [
    "LAST_NUMBER", "AnswerRule", "Chat", "ChoiceCompletion", "JoinedTurns", "Sample", "Split", "Task",
    "TemplateCompletion", "check_disjoint", "labels_of", "parse_task", "parse_tasks", "read_records", "render",
    "split_samples", "text_digest",
]  # fmt: skip
