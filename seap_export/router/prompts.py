"""Which prompts a router is fitted on, and on which it is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from seap_export.corpus import Sample, Split
from seap_export.errors import InputError

__all__ = ["RouterPrompts", "prompt_of", "router_prompts"]

TokenIds = list[list[int]]


@dataclass(frozen=True)
class RouterPrompts:
    """The token ids of each task's prompts, none empty.

    Attributes:
        calibration: What the router is fitted on.
        held_out: What it is measured on; no prompt is among those of `calibration`, whatever the task.
        num_seen: Held-out prompts left out because they are: texts may differ in the completion alone.
    """

    calibration: Mapping[str, TokenIds]
    held_out: Mapping[str, TokenIds]
    num_seen: int

    def __post_init__(self) -> None:
        if len(self.calibration) < 2:
            raise InputError("a router needs at least two tasks; give another --task")
        if self.calibration.keys() != self.held_out.keys():
            raise InputError("a router needs calibration and held-out texts of the same tasks")
        for task, sequences in self.calibration.items():
            if not sequences:
                raise InputError(f"task '{task}': the tokenizer finds no token in any prompt; use another corpus")


def prompt_of(sample: Sample) -> str:
    """What a model would be given of a sample: its prompt, or its completion where the prompt is empty."""
    return sample.prompt or sample.completion


def router_prompts(splits: Mapping[str, Split], token_ids: Callable[[str], list[int]]) -> RouterPrompts:
    """The prompts of every task's split.

    Args:
        splits: The texts of each task.
        token_ids: Gives a prompt's token ids, cut to the length that the router reads.

    Raises:
        InputError: There are fewer than two tasks, or no prompt of a task has a token.
    """

    def tokenized(samples: tuple[Sample, ...]) -> TokenIds:
        return [ids for ids in (token_ids(prompt_of(sample)) for sample in samples) if ids]

    calibration = {task: tokenized(split.calibration) for task, split in splits.items()}
    seen = {tuple(ids) for sequences in calibration.values() for ids in sequences}
    held_out = {task: tokenized(split.held_out) for task, split in splits.items()}
    unseen = {task: [ids for ids in sequences if tuple(ids) not in seen] for task, sequences in held_out.items()}
    return RouterPrompts(calibration, unseen, sum(map(len, held_out.values())) - sum(map(len, unseen.values())))
