"""Times a generation loop, this package's or ONNX Runtime GenAI's; imports only what the loop needs.

    python loop.py runner|genai FOLDER REQUEST.json

prints as JSON the seconds to the first token of each counted run, those of each later token, and the tokens. GenAI
takes the number of threads from the folder's genai_config.json.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

#: Yields new tokens one by one, given a prompt and their number.
_Loop = Callable[[list[int], int], Iterator[int]]


def _runner(folder: Path, threads: int) -> _Loop:
    from seap_export.runtime import GREEDY, Generator
    from seap_export.runtime.generator import Row

    generator = Generator(folder, threads=threads)

    def tokens(prompt: list[int], new_tokens: int) -> Iterator[int]:
        row = Row(generator, prompt, new_tokens, GREEDY)
        for _ in generator.steps(generator.decoder.start([prompt], new_tokens), [row]):
            yield row.token_ids[-1]

    return tokens


def _genai(folder: Path, threads: int) -> _Loop:
    import onnxruntime_genai as og

    model = og.Model(str(folder))

    def tokens(prompt: list[int], new_tokens: int) -> Iterator[int]:
        parameters = og.GeneratorParams(model)
        parameters.set_search_options(do_sample=False, max_length=len(prompt) + new_tokens)
        generator = og.Generator(model, parameters)
        generator.append_tokens(prompt)
        while not generator.is_done():
            generator.generate_next_token()
            yield int(generator.get_next_tokens()[0])

    return tokens


def _main(kind: str, folder: Path, asked: dict[str, Any]) -> None:
    loop = {"runner": _runner, "genai": _genai}[kind](folder, asked["threads"])
    prefills: list[float] = []
    steps: list[float] = []
    for run in range(asked["warm_up"] + asked["runs"]):
        tokens, times = [], [time.perf_counter()]
        for token in loop(asked["prompt"], asked["new_tokens"]):
            times.append(time.perf_counter())
            tokens.append(token)
        if run >= asked["warm_up"]:
            taken = [end - begin for begin, end in pairwise(times)]
            prefills.append(taken[0])
            steps.extend(taken[1:])
    print(json.dumps({"prefills": prefills, "steps": steps, "tokens": tokens}))


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]), json.loads(Path(sys.argv[3]).read_text("utf-8")))
