"""What `make demo` makes of SmolLM2-135M: a proven variant of each task, and a router."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

from support.product import KeptNeurons, read_plan

ROOT = Path(__file__).parents[2]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def test_demo_makes_a_proven_variant_of_each_task(demo: Path) -> None:
    manifest = json.loads((demo / "manifest.json").read_text("utf-8"))
    assert manifest["complete"]
    for name in ("arithmetic-0.2", "everyday-0.2", "reading-0.2"):  # other tests add more to the folder
        variant = manifest["variants"][name]
        assert variant["method"] == "reconstruct"
        assert abs(variant["achieved_ratio"] - 0.2) <= 0.005
        assert variant["parity"]["onnx"]["verdict"] == "passed"
        assert variant["precision"]["onnx"] == "int8"
        assert 0 < variant["parity"]["onnx"]["max_abs"] <= 1e-3
        assert 0 < variant["parity"]["onnx"]["mean_kl_nats"] <= 0.05


def test_parity_of_the_demo_is_long_and_exact_where_nothing_is_rounded(demo: Path) -> None:
    variants = json.loads((demo / "validation.json").read_text("utf-8"))["variants"]
    for name in ("arithmetic-0.2", "everyday-0.2", "reading-0.2"):
        parity = variants[name]["parity"]["onnx"]
        assert parity["longest_tokens"] == 2048
        exact = [stage for stage in parity["cases"] if stage["case"].endswith(", in float32")]
        assert len(exact) >= 6
        assert max(stage["max_abs"] for stage in exact) == parity["max_abs"] < 1e-3
        assert all(stage["top1_agreement"] == 1.0 and stage["mean_kl_nats"] < 1e-7 for stage in exact)


def test_demo_makes_a_router_that_knows_the_tasks(demo: Path, run: Run) -> None:
    router = json.loads((demo / "router" / "router.json").read_text("utf-8"))
    assert router["classes"] == ["arithmetic", "everyday", "reading"]
    assert router["held_out"]["prompts"] >= 30
    assert router["held_out"]["accuracy"] > 0.9
    held_out = json.loads((demo / "calibration" / "arithmetic" / "calibration.json").read_text("utf-8"))["held_out"]
    route = json.loads(run("route", demo, held_out[0]["question"], "--ratio", "0.2", "--json").stdout)
    assert (route["task"], Path(route["variant"]).name) == ("arithmetic", "arithmetic-0.2")


def test_no_answer_is_blank(demo: Path, run: Run) -> None:
    """That of the README's example, and those of both models that the report shows."""
    readme = (ROOT / "README.md").read_text("utf-8")
    (example,) = re.findall(r"^seap-export (generate pruned/arithmetic-0\.2 .*)$", readme, flags=re.MULTILINE)
    answers = {"README": run(*shlex.split(example.replace("pruned/", f"{demo}/"))).stdout}
    for name in ("arithmetic", "everyday", "reading"):
        sample = json.loads((demo / f"{name}-0.2" / "quality.json").read_text("utf-8"))["sample"]
        answers |= {f"{name}, {model}": sample[model] for model in ("dense", "variant")}
        record = json.loads((demo / "calibration" / name / "calibration.json").read_text("utf-8"))
        questions = {held_out.get("question") for held_out in record["held_out"]}
        assert (sample["prompt"] in questions) == (name != "reading"), sample["prompt"]
    words = {name: re.findall(r"\w+", answer) for name, answer in answers.items()}
    assert {name: said for name, said in words.items() if len(set(said)) < 4} == {}


def test_tasks_keep_different_heads_and_neurons(demo: Path) -> None:
    plans = [read_plan(demo / name / "plan.json") for name in ("arithmetic-0.2", "everyday-0.2", "reading-0.2")]
    assert len({tuple(layer[KeptNeurons].neurons for layer in plan.layers) for plan in plans}) == 3


def test_truncated_gguf_is_refused_in_one_line(smollm2_gguf: Path, tmp_path: Path, run: Run) -> None:
    short = tmp_path / "short.gguf"
    with smollm2_gguf.open("rb") as file:
        short.write_bytes(file.read(40_000_000))
    done = run("export", short, "--task", "sample:arithmetic", "--ratio", "0.2", "--out", tmp_path / "out", code=8)
    assert done.stderr.count("\n") == 1
    assert "truncated" in done.stderr
    assert not (tmp_path / "out").exists()
