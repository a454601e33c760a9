"""A small export with a router: two tasks whose texts use different words."""

from __future__ import annotations

import json
import random
from pathlib import Path

from micro import WORDS, write_micro_model

#: The words of each task's texts.
TASK_WORDS = {"a": WORDS[:10], "b": WORDS[8:]}


def task_texts(task: str, number: int, seed: int = 0) -> list[str]:
    """Distinct texts of 4 to 24 words of the task."""
    chance = random.Random(f"{seed}{task}")
    texts: dict[str, None] = {}
    while len(texts) < number:
        texts[" ".join(chance.choices(TASK_WORDS[task], k=chance.randint(4, 24)))] = None
    return list(texts)


def write_task_corpora(folder: Path) -> None:
    """`a.jsonl` and `b.jsonl`, 60 texts each."""
    for task in TASK_WORDS:
        lines = (json.dumps({"text": text}) + "\n" for text in task_texts(task, 60))
        (folder / f"{task}.jsonl").write_text("".join(lines), "utf-8")


def export_with_router(folder: Path, ratios: tuple[float, ...]) -> Path:
    """An export of tasks a and b and of both together, with a router."""
    from seap_export.corpus import parse_tasks
    from seap_export.pipeline.export import export
    from seap_export.pipeline.mixtures import parse_mixtures
    from seap_export.pipeline.request import ExportRequest
    from seap_export.pipeline.settings import ParitySettings
    from seap_export.sources.source import open_source

    write_task_corpora(folder)
    source = open_source(str(write_micro_model(folder / "m", model_type="llama")))
    tasks = parse_tasks([f"{task}={folder / task}.jsonl" for task in TASK_WORDS])
    request = ExportRequest(
        tasks,
        ratios,
        mixtures=parse_mixtures(list(TASK_WORDS), general=True, weights=(), mixes=()),
        parity=ParitySettings(prompts=1, decode_steps=1),
        threshold=0.6,
    )
    export(source, request, folder / "out")
    return folder / "out"
