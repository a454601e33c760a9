"""What CUDA is asked for by the graphs that `--provider cuda` writes: where nodes run, kernels, copies and waits.

One model is run in CI. `make test-all` runs every family in each precision, for one row and for four, mixtures, older
GPUs, the standard dialect, cuDNN's attention and a second GPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest
from support.chosen import MIXTURES_ON_GPUS, ON_GPUS
from support.models import write_micro_model
from support.product import BlockQuantization, DialectName, Logits, OnnxForm, Precision
from support.variations import VARIATIONS

from converters.onnx import write_onnx
from fake_cuda.log import Counts
from fake_cuda.machine import Machine, Ran
from fake_cuda.steps import Job, run

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
ON_CPU_STANDARD = {"Concat", "Squeeze", "Sub"}
#: Nodes that launch no kernel of ONNX Runtime's own: shapes, and products, which cuBLAS computes.
WITHOUT_KERNEL = {"FusedMatMul", "MatMul", "Reshape", "Shape", "Squeeze", "Unsqueeze"}
CUDNN = "libcudnn.so.9"


@dataclass(frozen=True)
class Graph:
    """A graph that was written, and how."""

    family: str
    precision: str
    dialect: DialectName
    logits: Logits
    model: Path

    def job(self, batch: int, is_captured: bool = False) -> Job:
        name = f"{self.model.parent.name}-{batch}{'-captured' if is_captured else ''}"
        return Job(name, str(self.model), batch, 4 if is_captured else 2, self.dialect == "fused", is_captured)

    def attending(self) -> int:
        """The layers with attention, which some families have in few layers."""
        written = onnx.load(self.model, load_external_data=False).graph.node
        return sum(node.op_type == "GroupQueryAttention" for node in written)

    def kernels(self, nodes: Counter[str]) -> int:
        """Kernels that nodes on CUDA launch, without those of attention."""
        written = onnx.load(self.model, load_external_data=False).graph.node
        biases = sum(node.op_type == "MatMulNBits" and len(node.input) > 5 and node.input[5] != "" for node in written)
        single = nodes.total() - sum(nodes[name] for name in (*WITHOUT_KERNEL, "GroupQueryAttention"))
        return single + nodes["GatherND"] + biases  # these two launch one kernel more


class Graphs:
    """Writes each graph once for all tests of this file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(
        self,
        family: str,
        precision: str,
        dialect: DialectName = "fused",
        logits: Logits = "last",
        layers: int = LAYERS,
    ) -> Graph:
        model = self.folder / f"{family}-{layers}"
        if not model.exists():
            values = {**VARIATIONS[family], "intermediate_size": 96, "num_hidden_layers": layers}
            write_micro_model(model, **values)
        out = self.folder / f"{family}-{layers}-{precision}-{dialect}-{logits}"
        if not out.exists():
            out.mkdir()
            write_onnx(model, out, OnnxForm(PRECISIONS[precision], dialect, logits, "cuda"))
        return Graph(family, precision, dialect, logits, out / "model.onnx")


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Graphs:
    return Graphs(tmp_path_factory.mktemp("graphs"))


def check_call(counts: Counts, where: str) -> None:
    """What holds for every call of the fused dialect: the host reads the logits, and waits for nothing else."""
    assert not counts.errors, where
    assert (len(counts.to_host), counts.to_device) == (1, []), where
    assert counts.waits.total() <= 2, where


def check_fused(machine: Machine, asked: Sequence[tuple[Graph, int]]) -> None:
    """Each node launches what its operator must, and nothing more: no cast, no copy, no fallback of attention.

    Args:
        machine: Where graphs run.
        asked: Graphs, and the number of rows of each.
    """
    jobs = [(graph, graph.job(batch)) for graph, batch in asked]
    ran, nodes_of = run(machine, [job for _, job in jobs])
    for graph, job in jobs:
        nodes = {provider: Counter(names) for provider, names in nodes_of[job.name].items()}
        assert nodes["CPUExecutionProvider"].keys() <= ON_CPU, job.name
        on_cuda = nodes["CUDAExecutionProvider"]
        attending = graph.attending()
        assert on_cuda["GroupQueryAttention"] == attending, job.name
        for section in ("prompt", "step 1", "step 2"):
            where = f"{job.name} {section}"
            counts = ran[where]
            check_call(counts, where)
            assert not any(name.startswith("cudnn") for name in counts.calls), where
            # The sum of one number a row is a copy within the GPU. Nodes that are fused later launch less.
            attention = counts.launches + len(counts.within_devices) - graph.kernels(on_cuda)
            assert attention <= (3 if section == "prompt" else 1) * attending, where


def test_a_layer_is_four_kernels_and_five_products(graphs: Graphs, fake_cuda: type[Machine]) -> None:
    """Attention, the gate's product, and two norms with their sums; what is outside layers does not grow with them.

    The products are queries with keys and values, output, gate, up and down. Captured steps launch the same.
    """
    one, three = (graphs.write("llama-gqa", "fp16", layers=layers) for layers in (1, 3))
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
def test_every_family(family: str, graphs: Graphs, fake_cuda: type[Machine]) -> None:
    """Each precision with one row and with four, on two kinds of GPU; then captured."""
    written = [graphs.write(family, precision) for precision in PRECISIONS]
    check_fused(fake_cuda(sm=80, without=(CUDNN,)), [(graph, 4) for graph in written])
    machine = fake_cuda(sm=90, without=(CUDNN,))
    check_fused(machine, [(graph, 1) for graph in written])
    if family in RICH:
        ran, _ = run(machine, [graph.job(1, is_captured=it) for graph in written for it in (False, True)])
        for graph in written:
            check_replay(ran, graph, ran[f"{graph.job(1).name} step 2"])


@pytest.mark.full
def test_mixtures(graphs: Graphs, fake_cuda: type[Machine]) -> None:
    """Experts stay on CUDA; the host reads the logits alone once kernels are chosen, which the first calls do."""
    written = [graphs.write(family, ("fp16", "bf16")[row % 2]) for row, family in enumerate(MIXTURES_ON_GPUS)]
    jobs = [graph.job((1, 4)[row % 2]) for row, graph in enumerate(written)]
    captured = written[-1].job(1, is_captured=True)
    ran, nodes_of = run(fake_cuda(sm=90, without=(CUDNN,)), [*jobs, captured])
    for graph, job in zip(written, jobs, strict=True):
        nodes = onnx.load(graph.model, load_external_data=False).graph.node
        assert set(nodes_of[job.name]["CPUExecutionProvider"]) <= ON_CPU | {"Concat"}, job.name
        assert nodes_of[job.name]["CUDAExecutionProvider"].count("MoE") == sum(node.op_type == "MoE" for node in nodes)
        check_call(ran[f"{job.name} step 2"], job.name)
    last = ran[f"{captured.name} step {captured.steps}"]
    assert (last.launches, last.calls, last.copies, len(last.replays)) == (0, {}, [], 1)


@pytest.mark.full
@pytest.mark.parametrize("family", RICH)
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_turing(family: str, precision: str, graphs: Graphs, fake_cuda: type[Machine]) -> None:
    """SM 75 has neither bf16 nor flash attention, which is what more kernels are for."""
    job = graphs.write(family, precision).job(1)
    ran, nodes_of = run(fake_cuda(sm=75, without=(CUDNN,)), [job])
    assert set(nodes_of[job.name]["CPUExecutionProvider"]) <= ON_CPU
    for section in ("prompt", "step 1", "step 2"):
        check_call(ran[f"{job.name} {section}"], section)


@pytest.mark.full
@pytest.mark.parametrize("family", RICH)
def test_the_standard_dialect_attends_on_cuda(family: str, graphs: Graphs, fake_cuda: type[Machine]) -> None:
    """Its guards are read by the host, and cuDNN computes its maximum; but all work is on CUDA."""
    written = [graphs.write(family, precision, "standard") for precision in ("fp16", "bf16")]
    jobs = [graph.job(batch) for graph in written for batch in (1, 4)]
    ran, nodes_of = run(fake_cuda(number=1), jobs)
    for job in jobs:
        assert set(nodes_of[job.name]["CPUExecutionProvider"]) <= ON_CPU_STANDARD, job.name
        assert nodes_of[job.name]["CUDAExecutionProvider"].count("Attention") == LAYERS, job.name
        for section in ("prompt", "step 1", "step 2"):
            counts = ran[f"{job.name} {section}"]
            assert (counts.errors, counts.to_device) == ([], []), job.name
            assert len(counts.to_host) <= 2, job.name
            assert counts.waits.total() <= 3, job.name


@pytest.mark.full
@pytest.mark.parametrize("sm", [80, 90])
def test_cudnn_computes_attention_at_most(sm: int, graphs: Graphs, fake_cuda: type[Machine]) -> None:
    """From SM 90 on, ONNX Runtime prefers cuDNN's attention where cuDNN is installed."""
    job = graphs.write("llama-gqa", "fp16").job(4)
    ran, _ = run(fake_cuda(sm=sm), [job])
    for section in ("prompt", "step 1", "step 2"):
        counts = ran[f"{job.name} {section}"]
        check_call(counts, section)
        calls = {name: count for name, count in counts.calls.items() if name.startswith("cudnn")}
        assert calls == ({"cudnnBackendExecute": LAYERS} if sm >= 90 else {})


@pytest.mark.full
def test_all_stays_on_the_second_gpu(graphs: Graphs, fake_cuda: type[Machine]) -> None:
    graph = graphs.write("llama-gqa", "fp16")
    job = Job("second", str(graph.model), options={"device_id": "1"})
    ran, _ = run(fake_cuda(gpus=2), [job])
    for section, counts in ran.sections.items():
        assert not counts.between_devices, section
        assert counts.work.keys() <= {1}, section
        assert counts.allocated[0] == 0, section
