"""What CUDA is asked for by the graphs that `--provider cuda` writes: where nodes run, kernels, copies and waits.

One model is run in CI. `make test-all` runs every family in each precision, for one row and for four, mixtures, older
GPUs, cuDNN's attention, and the table of launches.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest
from support.chosen import MIXTURES_ON_GPUS, ON_GPUS
from support.models import write_micro_model
from support.product import BlockQuantization, OnnxForm, Precision, genai_config
from support.variations import VARIATIONS

from converters.onnx import write_onnx
from fake_cuda.log import Counts
from fake_cuda.machine import Machine, Ran
from fake_cuda.steps import Job, run
from seap_export.common.json_file import read_json
from seap_export.model.families import model_spec

pytestmark = pytest.mark.needs("fake-cuda")

PRECISIONS = {
    "fp16": Precision("fp16"),
    "bf16": Precision("bf16"),
    "int8": Precision("fp16", BlockQuantization(8, 32)),
    "int4": Precision("bf16", BlockQuantization(4, 32)),
}
#: Families that differ most in what their attention asks for: biases, head norms and windows, rotation apart.
RICH = ("llama-biases", "gemma3-all", "phi3-all")
LAYERS = 3
#: Nodes that run on the CPU: the number of positions, which the shape of the mask gives.
ON_CPU = {"Cast", "Squeeze"}
#: Nodes that launch no kernel of ONNX Runtime's own: shapes, and products, which cuBLAS computes.
WITHOUT_KERNEL = {"FusedMatMul", "MatMul", "Reshape", "Shape", "Squeeze", "Unsqueeze"}
CUDNN = "libcudnn.so.9"


@dataclass(frozen=True)
class Graph:
    """A graph that was written."""

    model: Path

    def job(self, batch: int, is_captured: bool = False) -> Job:
        name = f"{self.model.parent.name}-{batch}{'-captured' if is_captured else ''}"
        return Job(name, str(self.model), batch, 4 if is_captured else 2, is_captured)

    def nodes(self) -> Counter[str]:
        return Counter(node.op_type for node in onnx.load(self.model, load_external_data=False).graph.node)

    def kernels(self, nodes: Counter[str]) -> int:
        """Kernels that nodes on CUDA launch, without those of attention."""
        written = onnx.load(self.model, load_external_data=False).graph.node
        biases = sum(node.op_type == "MatMulNBits" and len(node.input) > 5 and node.input[5] != "" for node in written)
        single = nodes.total() - sum(nodes[name] for name in (*WITHOUT_KERNEL, "GroupQueryAttention"))
        return single + nodes["GatherND"] + biases  # these two launch one kernel more


Write = Callable[..., Graph]


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Write:
    """Writes each graph once for all tests of this file."""
    folder = tmp_path_factory.mktemp("graphs")

    def write(family: str, precision: str, layers: int = LAYERS) -> Graph:
        model, out = folder / f"{family}-{layers}", folder / f"{family}-{layers}-{precision}"
        if not model.exists():
            values = {**VARIATIONS[family], "intermediate_size": 96, "num_hidden_layers": layers}
            write_micro_model(model, **values)
        if not out.exists():
            out.mkdir()
            write_onnx(model, out, OnnxForm(PRECISIONS[precision], "fused", "last", "cuda"))
        return Graph(out / "model.onnx")

    return write


def check_call(counts: Counts, where: str) -> None:
    """What holds for every call of the fused dialect: the host reads the logits, and waits for nothing else."""
    assert not counts.errors, where
    assert (len(counts.to_host), counts.to_device) == (1, []), where
    assert counts.waits.total() <= 2, where


def check_fused(machine: Machine, asked: Sequence[tuple[Graph, int]]) -> None:
    """Each node launches what its operator must, and nothing more: no cast, no copy, no fallback of attention."""
    jobs = [(graph, graph.job(batch)) for graph, batch in asked]
    ran, nodes_of = run(machine, [job for _, job in jobs])
    for graph, job in jobs:
        nodes = {provider: Counter(names) for provider, names in nodes_of[job.name].items()}
        assert nodes["CPUExecutionProvider"].keys() <= ON_CPU, job.name
        on_cuda = nodes["CUDAExecutionProvider"]
        attending = graph.nodes()["GroupQueryAttention"]  # some families have it in few layers
        assert on_cuda["GroupQueryAttention"] == attending, job.name
        for section in ("prompt", "step 1", "step 2"):
            where = f"{job.name} {section}"
            counts = ran[where]
            check_call(counts, where)
            assert not any(name.startswith("cudnn") for name in counts.calls), where
            # The sum of one number a row is a copy within the GPU. Nodes that are fused later launch less.
            attention = counts.launches + len(counts.within_devices) - graph.kernels(on_cuda)
            assert attention <= (3 if section == "prompt" else 1) * attending, where


def test_a_layer_is_four_kernels_and_five_products(write: Write, fake_cuda: type[Machine]) -> None:
    """Attention, the gate's product, and two norms with their sums; what is outside layers does not grow with them.

    The products are queries with keys and values, output, gate, up and down. Captured steps launch the same.
    """
    one, three = (write("llama-gqa", "fp16", layers=layers) for layers in (1, 3))
    check_fused(fake_cuda(sm=90, without=(CUDNN,)), [(one, 1), (three, 4)])
    ran, _ = run(fake_cuda(without=(CUDNN,)), [one.job(1), three.job(1), three.job(1, is_captured=True)])
    first, last = (ran[f"{graph.job(1).name} step 2"] for graph in (one, three))
    assert (last.launches - first.launches, last.calls.total() - first.calls.total()) == (2 * 4, 2 * 5)
    assert first.calls.total() == 5 + 1
    check_replay(ran, three, last)


def check_replay(ran: Ran, graph: Graph, expected: Counts) -> None:
    """A captured step is one launch, of what steps launch without it; a node that copies would forbid it."""
    job = graph.job(1, is_captured=True)
    steps = [ran[f"{job.name} step {n}"] for n in range(1, job.steps + 1)]
    assert (sum(it.captures for it in steps), sum(it.lost for it in steps)) == (1, 0), job.name
    last = steps[-1]
    assert (last.launches, last.calls, last.copies) == (0, {}, []), job.name
    assert last.waits.total() <= 1, job.name
    whole = (expected.launches, expected.calls.total(), len(expected.within_devices), expected.sets)
    assert last.replays == [whole], job.name


@pytest.mark.full
@pytest.mark.parametrize("family", ON_GPUS)
def test_every_family(family: str, write: Write, fake_cuda: type[Machine]) -> None:
    """Each precision with one row and with four, on two kinds of GPU; then captured."""
    written = [write(family, precision) for precision in PRECISIONS]
    check_fused(fake_cuda(sm=80, without=(CUDNN,)), [(graph, 4) for graph in written])
    machine = fake_cuda(sm=90, without=(CUDNN,))
    check_fused(machine, [(graph, 1) for graph in written])
    if family in RICH:
        ran, _ = run(machine, [graph.job(1, is_captured=it) for graph in written for it in (False, True)])
        for graph in written:
            check_replay(ran, graph, ran[f"{graph.job(1).name} step 2"])


@pytest.mark.full
def test_mixtures(write: Write, fake_cuda: type[Machine]) -> None:
    """Experts stay on CUDA; the host reads the logits alone once kernels are chosen, which the first calls do."""
    written = [write(family, ("fp16", "bf16")[row % 2]) for row, family in enumerate(MIXTURES_ON_GPUS)]
    jobs = [graph.job((1, 4)[row % 2]) for row, graph in enumerate(written)]
    captured = written[-1].job(1, is_captured=True)
    ran, nodes_of = run(fake_cuda(sm=90, without=(CUDNN,)), [*jobs, captured])
    for graph, job in zip(written, jobs, strict=True):
        assert set(nodes_of[job.name]["CPUExecutionProvider"]) <= ON_CPU | {"Concat"}, job.name
        assert nodes_of[job.name]["CUDAExecutionProvider"].count("MoE") == graph.nodes()["MoE"]
        check_call(ran[f"{job.name} step 2"], job.name)
    last = ran[f"{captured.name} step {captured.steps}"]
    assert (last.launches, last.calls, last.copies, len(last.replays)) == (0, {}, [], 1)


@pytest.mark.full
@pytest.mark.parametrize("family", RICH)
@pytest.mark.parametrize(("sm", "attention"), [(75, {}), (80, {}), (90, {"cudnnBackendExecute": LAYERS})])
def test_kinds_of_gpus(
    sm: int, attention: dict[str, int], family: str, write: Write, fake_cuda: type[Machine]
) -> None:
    """SM 75 has neither bf16 nor flash attention; from SM 90 on, ONNX Runtime prefers cuDNN's attention."""
    job = write(family, "fp16" if sm > 75 else "int8").job(4)
    ran, nodes_of = run(fake_cuda(sm=sm), [job])
    assert set(nodes_of[job.name]["CPUExecutionProvider"]) <= ON_CPU
    for section in ("prompt", "step 1", "step 2"):
        counts = ran[f"{job.name} {section}"]
        check_call(counts, section)
        if family == "llama-biases":
            assert {name: calls for name, calls in counts.calls.items() if name.startswith("cudnn")} == attention


@pytest.mark.full
def test_the_table_has_a_row_for_each_precision_and_each_graph(write: Write) -> None:
    graph = write("llama-gqa", "fp16")
    model, ready = graph.model.parents[1] / f"llama-gqa-{LAYERS}", graph.model.parent
    config, form = read_json(model / "config.json"), OnnxForm(PRECISIONS["fp16"], "fused", "last", "cuda")
    (ready / "genai_config.json").write_text(json.dumps(genai_config(model_spec(config), config, None, form)))
    command = [sys.executable, str(Path(__file__).parent / "launches.py"), f"micro={model}", "--graph", str(ready)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    header, _, *rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines()]
    assert header[1:3] == ["kernel launches", "library calls"]
    assert [row[0] for row in rows] == [*(f"micro, {name}" for name in PRECISIONS), ready.name]
    assert rows[0][1:] == rows[-1][1:]
    assert all(int(row[1]) > 0 and row[3] == "0" for row in rows)
