"""Code and templates that a model brings along are never run: by no command, and by no reader of the artifacts."""

from __future__ import annotations

import json
from pathlib import Path

import jinja2
import pytest
from support.editing import set_json
from support.exports import Run
from support.product import PeakMemory
from transformers import AutoConfig, AutoTokenizer, dynamic_module_utils

from seap_export.pipeline.evaluation import bench

CODE = "import os\nos.makedirs({marker!r}, exist_ok=True)\nclass Evil: pass\n"
TEMPLATE = "{{{{ cycler.__init__.__globals__.os.makedirs({marker!r}, exist_ok=True) }}}}"
EXPORT = ("export", "m", "--task", "a=a.jsonl", "--ratio", "0.2", "--out", "out", "--no-speed", "--set", "prompts=1")
GENERATE = ("generate", "out/a-0.2", "the cat", "--max-new-tokens", "2")
SHORT = ("--depth", "4", "--batch", "1", "--runs", "1", "--steps", "1")


@pytest.fixture
def marker(work: Path) -> Path:
    """The folder that the code makes when it runs; the model `m` is armed with it."""
    marker, model = work / "marker", work / "m"
    (model / "evil.py").write_text(CODE.format(marker=str(marker)))
    classes = dict.fromkeys(("AutoConfig", "AutoModel", "AutoModelForCausalLM"), "evil.Evil")
    set_json(model / "config.json", auto_map=classes, attn_implementation="attacker/kernel")
    template = TEMPLATE.format(marker=str(marker))
    (model / "chat_template.jinja").write_text(template)
    set_json(
        model / "tokenizer_config.json",
        tokenizer_class="EvilTokenizer",
        auto_map={"AutoTokenizer": ["attacker/repository--evil.Evil", "evil.Evil"]},
        chat_template=template,
    )
    return marker


def test_the_trap_works(marker: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests below would otherwise prove nothing."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(work / "modules"))
    with pytest.raises(AttributeError):
        AutoConfig.from_pretrained(work / "m", trust_remote_code=True)
    assert marker.is_dir()
    marker.rmdir()
    jinja2.Template((work / "m" / "chat_template.jinja").read_text()).render()
    assert marker.is_dir()


def test_a_model_with_code_is_pruned_by_ours_and_its_artifacts_name_no_other(
    run: Run, marker: Path, work: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "peak_memory", lambda *args, **kwargs: PeakMemory(1, None))  # of other processes
    for command in (
        EXPORT,
        ("inspect", "m"),
        ("inspect", "out"),
        ("validate", "out/a-0.2", "--prompts", "1", "--decode-steps", "1"),
        ("evaluate", "out/a-0.2", "--dense", "m", "--runtime", "torch", "--runtime", "onnxruntime", "--limit", "2"),
        ("convert", "m", "--out", "dense"),
        ("bench", "out/a-0.2", "--dense", "m", *SHORT, "--runtime", "torch"),
        (*GENERATE, "--raw"),
    ):
        outcome = run(*command, "--quiet")
        assert outcome.code == 0, (command, outcome)
        assert not marker.exists(), command
    run(*GENERATE, "--template", "--quiet").refused(8, "chat template refuses the messages", "unsafe")
    assert not marker.exists()
    weights = "a-0.2/hf/model.safetensors"
    assert (work / "out" / weights).read_bytes() == (undisturbed / weights).read_bytes()
    for folder in (work / "out" / "a-0.2" / part for part in ("hf", "onnx")):
        assert not list(folder.glob("evil*"))
        texts = {path.name: path.read_text("utf-8") for path in folder.glob("*.json")}
        assert not any("evil" in text or "attacker" in text for text in texts.values())
        config = json.loads(texts["tokenizer_config.json"])
        assert "auto_map" not in config
        assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    tokenizer = AutoTokenizer.from_pretrained(work / "out" / "a-0.2" / "hf", trust_remote_code=True)
    assert tokenizer("the cat")["input_ids"] == [4, 6]
    assert not marker.exists()


def test_a_model_that_needs_its_code_is_refused(run: Run, marker: Path, done: Path, work: Path) -> None:
    set_json(work / "m" / "config.json", model_type="evil", architectures=["Evil"])
    for command in (EXPORT, ("convert", "m", "--out", "dense"), ("evaluate", "out/a-0.2", "--dense", "m")):
        run(*command, "--quiet").refused(8, "family", "'evil'")
        assert not marker.exists(), command


def test_code_that_was_changed_in_an_artifact_is_not_run(run: Run, done: Path, work: Path) -> None:
    marker, folder = work / "marker", done / "a-0.2" / "hf"
    for name in ("modeling_seap.py", "configuration_seap.py", "evil.py"):
        (folder / name).write_text(CODE.format(marker=str(marker)))
    set_json(folder / "config.json", auto_map={"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"})
    set_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]})
    for command in (
        ("validate", "out/a-0.2", "--check", "parity", "--prompts", "1", "--decode-steps", "1"),
        ("evaluate", "out/a-0.2", "--dense", "m", "--runtime", "torch", "--runtime", "onnxruntime", "--limit", "2"),
        ("convert", "out/a-0.2/hf", "--out", "again"),
        GENERATE,
    ):
        outcome = run(*command, "--quiet")
        assert outcome.code in (0, 7, 8), outcome
        assert not marker.exists(), command
    run("inspect", "out").refused(7)
