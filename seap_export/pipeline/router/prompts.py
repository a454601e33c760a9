"""The prompts that a router is fitted and measured on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from seap_export.corpus import Sample, Split
from seap_export.errors import InputError

TokenIds = list[list[int]]


@dataclass(frozen=True)
class RouterPrompts:
    """The token ids of each task's prompts; no prompt is empty.

    Attributes:
        held_out: Prompts to measure it on; none of them is among the calibration prompts of any task.
        num_seen: Held-out prompts left out because they also occur in calibration (two texts may differ only in
            their completion).
    """

    calibration: Mapping[str, TokenIds]
    held_out: Mapping[str, TokenIds]
    num_seen: int

    def __post_init__(self) -> None:
        if len(self.calibration) < 2:
            raise InputError("a router needs at least two tasks; add another --task")
        if self.calibration.keys() != self.held_out.keys():
            raise InputError("a router needs calibration and held-out texts of the same tasks")
        for task, sequences in self.calibration.items():
            if not sequences:
                raise InputError(f"task '{task}': the tokenizer finds no token in any prompt; use another corpus")


def router_prompts(splits: Mapping[str, Split], token_ids: Callable[[str], list[int]]) -> RouterPrompts:
    """Collects the questions of every task, without a chat template, which would tell tasks apart by their form."""

    def tokenized(split: Split, samples: tuple[Sample, ...]) -> TokenIds:
        return [ids for ids in (token_ids(split.question(sample)) for sample in samples) if ids]

    calibration = {task: tokenized(split, split.calibration) for task, split in splits.items()}
    seen = {tuple(ids) for sequences in calibration.values() for ids in sequences}
    held_out = {task: tokenized(split, split.held_out) for task, split in splits.items()}
    unseen = {task: [ids for ids in sequences if tuple(ids) not in seen] for task, sequences in held_out.items()}
    return RouterPrompts(calibration, unseen, sum(map(len, held_out.values())) - sum(map(len, unseen.values())))
