"""Counts what a decode step asks of a GPU, as a table in Markdown: launches, calls, copies and waits, never times.

    python tests/fake_cuda/launches.py [NAME=]MODEL ... [--graph [NAME=]FOLDER ...] [--sm 90]
        [--positions 1024] [--without-cudnn]

MODEL is a dense or pruned model in safetensors, which is written for CUDA in each precision. FOLDER has a model.onnx
that is run as it is, such as one of ONNX Runtime GenAI's model builder. Both are run with the provider options that
their genai_config.json has, but without capturing steps, so that the launches within a captured step are seen.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from support.product import OnnxForm, PrecisionName, choose_precision, genai_config  # noqa: E402

from converters.onnx import write_onnx  # noqa: E402
from fake_cuda.log import Counts  # noqa: E402
from fake_cuda.machine import Machine  # noqa: E402
from fake_cuda.steps import Job, run  # noqa: E402
from seap_export.model.families import model_spec  # noqa: E402

CUDNN = "libcudnn.so.9"
STEP = "step 2"
CACHE = ("num_key_value_heads", "head_size")
HEADER = (
    "| a decode step, one row, {positions} positions, SM {sm} | kernel launches | library calls "
    "| copies to the host, beside the logits | copies within the GPU | waits | MB |\n|---|---|---|---|---|---|---|"
)


def named(text: str) -> tuple[str, Path]:
    """NAME=FOLDER, or a folder that names itself."""
    name, is_named, folder = text.partition("=")
    return (name, Path(folder)) if is_named else (Path(text).name, Path(text))


def provider_options(config: Mapping[str, Any]) -> dict[str, str]:
    """Those for CUDA of a genai_config.json, but for capturing."""
    providers = config["model"]["decoder"]["session_options"]["provider_options"]
    options = next((entry["cuda"] for entry in providers if "cuda" in entry), {})
    return {name: value for name, value in options.items() if name != "enable_cuda_graph"}


def written(models: Sequence[tuple[str, Path]], positions: int, folder: Path) -> Iterator[Job]:
    """Each model in each precision that CUDA can run."""
    for name, model in models:
        config = json.loads((model / "config.json").read_text())
        for precision in [it for it in get_args(PrecisionName) if it not in ("fp32", "w8a8", "w4a8")]:
            form = OnnxForm(choose_precision(precision, "cuda"), "fused", "last", "cuda")
            out = folder / f"{name}, {precision}"
            out.mkdir()
            write_onnx(model, out, form)
            options = provider_options(genai_config(model_spec(config), config, None, form))
            capacity = min(positions, config["max_position_embeddings"])
            yield Job(out.name, str(out / "model.onnx"), options=options, capacity=capacity)


def ready(graphs: Sequence[tuple[str, Path]], positions: int) -> Iterator[Job]:
    """Graphs that are run as they are."""
    for name, folder in graphs:
        config = json.loads((folder / "genai_config.json").read_text())
        model, options = config["model"], provider_options(config)
        cache, capacity = [model["decoder"][key] for key in CACHE], min(positions, model["context_length"])
        yield Job(name, str(folder / "model.onnx"), options=options, capacity=capacity, cache=tuple(cache))


def row(job: Job, counts: Counts) -> str:
    size = sum(file.stat().st_size for file in Path(job.model).parent.glob("model.onnx*")) / 1e6
    values = [counts.launches, counts.calls.total(), len(counts.to_host) - 1, len(counts.within_devices)]
    return f"| {job.name} | {' | '.join(map(str, values))} | {counts.waits.total()} | {size:.1f} |"


def main() -> None:
    """Prints the table."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=named, metavar="[NAME=]MODEL")
    parser.add_argument("--graph", nargs="+", type=named, default=[], metavar="[NAME=]FOLDER")
    parser.add_argument("--sm", type=int, default=90, help="compute capability times 10")
    parser.add_argument("--positions", type=int, default=1024, help="length of the caches, which choose kernels by it")
    parser.add_argument("--without-cudnn", action="store_true", help="as on a machine that lacks cuDNN")
    given = parser.parse_args()
    machine = Machine(sm=given.sm, without=(CUDNN,) if given.without_cudnn else ())
    with tempfile.TemporaryDirectory() as folder:
        jobs = [*written(given.models, given.positions, Path(folder)), *ready(given.graph, given.positions)]
        print(HEADER.format(sm=given.sm, positions=given.positions))
        for job in jobs:  # one process each: a GPU's memory holds one model at a time
            ran, _ = run(machine, [job])
            print(row(job, ran[f"{job.name} {STEP}"]), flush=True)


if __name__ == "__main__":
    main()
