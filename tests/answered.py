"""What a model writes after prompts by a plain loop over torch logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["STEPS", "WRONG", "Written", "by_hand"]

STEPS = 20
#: Each third question is given another right answer than the model's.
WRONG = 3


@dataclass(frozen=True)
class Written:
    """What a plain loop writes after a prompt."""

    tokens: tuple[int, ...]
    text: str
    is_ended: bool


def by_hand(folder: Path, prompts: Sequence[str], steps: int = STEPS, end: int = 2) -> list[Written]:
    """The most likely tokens after each prompt, alone, without a cache."""
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    written = []
    for prompt in prompts:
        ids = list(tokenizer.encode(prompt).ids)
        start, is_ended = len(ids), False
        while len(ids) < start + steps and not is_ended:
            with torch.no_grad():
                token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
            is_ended = token == end
            ids += [] if is_ended else [token]
        own = tuple(ids[start:])
        written.append(Written(own, tokenizer.decode(ids)[len(tokenizer.decode(ids[:start])) :], is_ended))
    return written
