"""`validate`: what it says, writes and exits with, for exports that are right, damaged or wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import numpy as np
import pytest
from support.editing import edit_json, edit_tensor, list_again, record_again, set_json
from support.exports import Run, tree
from support.models import write_micro_model

from validation.reports import schema

QUICK = ("--prompts", "1", "--threads", "1")


def flip_a_weight(variant: Path) -> None:
    """The largest weight of an int8 matrix gets the other sign: the lowest level of its block becomes the highest."""
    name = "model.layers.1.mlp.up_proj.weight.packed"
    edit_tensor(variant / "onnx" / "model.onnx", name, lambda levels: levels.put(levels.argmin(), 255))


def test_a_good_export_passes_and_is_left_as_it_was(run: Run, done: Path, work: Path) -> None:
    before = tree(done)
    outcome = run("validate", "out", *QUICK, "--out", "v.json", "--junit", "v.xml", "--html", "v.html")
    assert outcome.code == 0
    checks = [
        f"{task}-{ratio} {check}" for task in "ab" for ratio in ("0.2", "0.4") for check in ("integrity", "parity")
    ]
    lines = [" ".join(line.split()) for line in outcome.out.splitlines()]
    rows = [f"{check} passed" for check in ("m integrity", *checks, "m router")]
    assert lines == ["variant check verdict", *rows, "", "passed"]
    assert tree(done) == before

    report = json.loads((work / "v.json").read_text())
    jsonschema.validate(report, schema())
    assert (report["verdict"], report["exit_code"], report["failure"]) == ("passed", 0, "")
    variant = report["variants"]["a-0.2"]
    assert variant["parity"]["onnx"]["verdict"] == "passed"
    assert {case["case"] for case in variant["parity"]["onnx"]["cases"]} == {
        "prompt 0", "batch of 3", "one token", "prompt 0, served", "batch of 3, served",
        *(f"{name}, in float32" for name in ("batch of 3", "random tokens", "long prompt")),
    }  # fmt: skip
    assert [layer["kept"] for layer in variant["layers"]] == [1.0, 1.0, pytest.approx(13 / 33)]
    dense, weights = (Path(folder, "model.safetensors").stat().st_size for folder in ("m", done / "a-0.2" / "hf"))
    larger = {name: variant["dense_bytes"][name] - size for name, size in variant["bytes"].items()}
    assert larger["hf"] == pytest.approx(dense - weights, rel=0.05)  # a header and metadata
    assert larger["onnx"] < 0.35 * larger["hf"]  # in int8, too
    assert ElementTree.parse(work / "v.xml").getroot().get("failures") == "0"
    assert (work / "v.html").read_text().startswith("<!doctype html>")


def test_one_wrong_weight_is_stopped_named_and_followed_to_its_layer(run: Run, done: Path, work: Path) -> None:
    flip_a_weight(done / "a-0.2")
    record_again(done)
    outcome = run("validate", "out/a-0.2", *QUICK, "--bisect", "--quiet", "--out", "v.json", "--junit", "v.xml")
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (3, "", 1)
    assert " layers.1.mlp.up_proj (and " in outcome.err
    report = json.loads((work / "v.json").read_text())
    jsonschema.validate(report, schema())
    first = report["variants"]["a-0.2"]["bisect"]["first"]
    assert (first["layer"], first["sublayer"]) == (1, "mlp.up_proj")
    assert "weights: 'model.layers.1.mlp.up_proj.weight" in str(reasons(report))
    assert int(ElementTree.parse(work / "v.xml").getroot().get("failures", "0")) >= 1


def reasons(report: dict[str, Any]) -> list[str]:
    return [reason for check in report["checks"] if check["check"] == "parity" for reason in check["reasons"]]


def test_a_rare_token_is_found_by_its_weights(run: Run, done: Path) -> None:
    """Whether or not a text has the token: what is stored is compared with what the model says."""
    graph, name = done / "a-0.2" / "onnx" / "model.onnx", "model.embed_tokens.weight.packed"
    edit_tensor(graph, name, lambda levels: levels.put(95 * 96, levels.flat[95 * 96] ^ 128))  # in the last row
    record_again(done)
    outcome = run("validate", "out/a-0.2", *QUICK, "--quiet", "--json")
    assert outcome.code == 3
    assert "weights: 'model.embed_tokens.weight" in str(reasons(json.loads(outcome.out)["report"]))


def test_what_is_damaged_is_told_and_not_run(run: Run, done: Path) -> None:
    data = done / "a-0.2" / "onnx" / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:-1])
    (done / "b-0.4" / "hf" / "config.json").unlink()
    outcome = run("validate", "out", *QUICK, "--json", "--quiet")
    assert outcome.code == 7
    message = "a-0.2: integrity: out/a-0.2/onnx/model.onnx.data differs from its SHA-256 in manifest.json"
    assert outcome.err == f"Error: {message}; 1 more check failed\n"
    said = json.loads(outcome.out)
    assert said["error"] == {"message": f"{message}; 1 more check failed", "exit_code": 7}
    assert (said["report"]["verdict"], said["report"]["failure"]) == ("failed", said["error"]["message"])


def test_a_router_that_leads_nowhere(run: Run, done: Path) -> None:
    edit_json(done / "router" / "router.json", lambda values: values["variants"]["0.2"].update(a="c-0.2"))
    record_again(done)
    run("validate", "out", "--check", "router", "--quiet").refused(7, "router: router.json ", "'c-0.2'")


def test_a_dense_model_that_cannot_serve_is_refused_before_anything_is_run(run: Run, done: Path, work: Path) -> None:
    write_micro_model(work / "other", seed=1, model_type="llama")
    outcome = run("validate", "out", *QUICK, "--dense", "other", "--max-kl", "1")
    assert (outcome.code, outcome.out) == (8, "")
    assert "'other' is not the model that a-0.2 was made from ('m')" in outcome.err
    assert "comparing" not in outcome.err


def test_quality_and_speed_against_the_dense_model(run: Run, done: Path, work: Path) -> None:
    speed = ("--max-bytes-ratio", "0.99", "--depth", "8", "--runs", "5")
    outcome = run("validate", "out/a-0.4", *QUICK, "--dense", "m", "--max-kl", "99", *speed, "--out", "v.json")
    assert outcome.code == 0, outcome.err
    report = json.loads((work / "v.json").read_text())
    jsonschema.validate(report, schema())
    variant = report["variants"]["a-0.4"]
    assert variant["quality"]["divergence"]["onnx"]["mean_kl_nats"] > 0
    (verdict,) = variant["speed"]["verdicts"]
    assert (verdict["figure"], verdict["verdict"]) == ("bytes_ratio", "passed")

    outcome = run("validate", "out/a-0.4", *QUICK, "--dense", "m", "--max-kl", "1e-9", "--quiet")
    assert outcome.code == 4
    run("validate", "out/a-0.4", *QUICK, "--dense", "m", "--max-bytes-ratio", "0.01", *speed[2:], "--quiet").refused(
        5, "a-0.4: speed: "
    )


def test_prompts_of_ones_own_need_no_statistics(run: Run, result: Callable[..., Any], done: Path, work: Path) -> None:
    (work / "prompts.txt").write_text("the cat sat\n\na dog ran far\n")
    shutil.copytree(done / "a-0.2", work / "alone")
    run("validate", "alone", "--check", "parity", "--quiet").refused(7, "--prompt-file")
    report = result("validate", "alone", *QUICK[2:], "--prompt-file", "prompts.txt", "--quiet")
    assert report["variants"]["alone"]["parity"]["onnx"]["prompts"]["count"] == 2
    assert ["as no manifest.json beside it" in note for note in report["checks"][0]["notes"]] == [True]


def _write(name: str, text: str) -> Callable[[Path], object]:
    def change(variant: Path) -> None:
        (variant / name).parent.mkdir(exist_ok=True)
        (variant / name).write_text(text)

    return change


def _overwritten(variant: Path) -> None:
    path = variant / "onnx" / "model.onnx.data"
    content = path.read_bytes()
    path.write_bytes(content[:4096] + bytes(64) + content[4160:])


def _append_code(variant: Path) -> None:
    path = variant / "hf" / "modeling_seap.py"
    path.write_text(path.read_text() + "\nimport os\nos.system('true')\n")


@pytest.mark.parametrize(
    ("change", "is_listed", "words"),
    [
        (_overwritten, False, ["onnx/model.onnx.data", "SHA256SUMS"]),
        (_append_code, False, ["hf/modeling_seap.py", "SHA256SUMS"]),
        (_append_code, True, ["hf/modeling_seap.py", "not the code of seap-export", "another release"]),
        (_write("hf/.env", "TOKEN=1"), False, ["hf/.env", "remove it"]),
        (_write("hf/pytorch_model.bin", "pickled"), True, ["hf/pytorch_model.bin", "remove it"]),
        (_write("onnx/__pycache__/a.pyc", "code"), False, ["onnx/__pycache__ ", "remove it"]),
        (lambda variant: (variant / "hf" / "notes").symlink_to("/etc/hostname"), False, ["hf/notes", "link"]),
        (lambda variant: set_json(variant / "hf/config.json", auto_map={"AutoModel": "a/b--c.D"}), True, ["auto_map"]),
    ],
)  # fmt: skip
def test_a_variant_copied_alone_is_checked_and_not_pushed_if_it_was_changed(
    run: Run, done: Path, work: Path, change: Callable[[Path], object], is_listed: bool, words: list[str]
) -> None:
    """Its own lists tell, and of code not even they."""
    alone = Path(shutil.copytree(done / "a-0.2", work / "alone"))
    assert run("validate", "alone", "--check", "integrity", "--quiet").code == 0
    change(alone)
    if is_listed:
        list_again(alone)
    run("validate", "alone", "--quiet").refused(7, *words)
    run("push", "alone", "me/small", "--dry-run", "--force", "--quiet").refused(7, *words)


def test_a_folder_copied_alone_is_not_opened_if_it_was_changed(
    run: Run, result: Callable[..., Any], done: Path, work: Path
) -> None:
    alone = Path(shutil.copytree(done / "a-0.2" / "onnx", work / "alone"))
    (check,) = result("validate", "alone", "--html", "v.html", "--junit", "v.xml")["checks"]
    assert (check["check"], check["verdict"]) == ("integrity", "passed")
    assert run("generate", "alone", "the cat").code == 0
    run("validate", "alone", "--check", "parity", "--quiet").refused(2, "alone", "only the files")
    run("validate", "alone", "--save-golden", "a.npz", "--quiet").refused(2, "alone", "onnx/model.onnx")
    _overwritten(alone.rename(work / "onnx").parent)
    for command in (("validate", "onnx"), ("generate", "onnx", "the cat")):
        run(*command, "--quiet").refused(7, "onnx/model.onnx.data", "SHA256SUMS")
    (work / "onnx" / "SHA256SUMS").unlink()
    assert "not checked" in run("generate", "onnx", "the cat").err


def test_a_signature_is_reported_as_not_checked(result: Callable[..., Any], done: Path) -> None:
    (done / "a-0.2" / "model.sig").write_text("{}")
    checks = result("validate", "out", "--check", "integrity", "--quiet")["checks"]
    notes = {check["variant"]: check["notes"] for check in checks}
    assert ["model.sig was not checked" in note for note in notes["a-0.2"]] == [True]
    assert not notes["a-0.4"]


@pytest.mark.needs("model-signing", "openssl")
def test_the_signatures_must_be_those_of_the_key(run: Run, done: Path, work: Path) -> None:
    from model_signing.signing import Config

    for name in ("signer", "other"):
        key = ("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{name}.key")
        subprocess.run(key, check=True)
        public = ("openssl", "ec", "-in", f"{name}.key", "-pubout", "-out", f"{name}.pem")
        subprocess.run(public, check=True, capture_output=True)
    variant = done / "a-0.2"
    Config().use_elliptic_key_signer(private_key=work / "signer.key").sign(variant, variant / "model.sig")
    check = ("validate", "out/a-0.2", "--check", "integrity", "--quiet", "--signed-by")
    assert run(*check, "signer.pem").code == 0
    run(*check, "other.pem").refused(7, "model.sig", "key")
    run(*check, "signer.key").refused(2, "signer.key", "public key")
    run("validate", "out/a-0.4", *check[2:], "signer.pem").refused(7, "a-0.4", "no signature")
    run("validate", "out", "--check", "router", "--signed-by", "signer.pem").refused(2, "integrity")
    (variant / ".DS_Store").write_text("Not signed, and not in the lists.")
    run(*check, "signer.pem").refused(7, "model.sig", ".DS_Store")
    (variant / "model.sig").write_text("{}")
    run(*check, "signer.pem").refused(7, "model.sig")


def test_a_golden_is_kept_and_compared(run: Run, done: Path, work: Path) -> None:
    outcome = run("validate", "out/a-0.2", *QUICK, "--save-golden", "a.npz", "--quiet")
    assert outcome.code == 0, outcome.err
    again = run("validate", "out/a-0.2", *QUICK, "--save-golden", "b.npz", "--quiet")
    assert again.code == 0
    assert (work / "a.npz").read_bytes() == (work / "b.npz").read_bytes()
    for path in ("out/a-0.2", "out/a-0.2/onnx"):
        outcome = run("validate", path, "--against-golden", "a.npz")
        assert outcome.code == 0, outcome.err
        assert outcome.out.startswith("golden passed: max abs ")
    with np.load(work / "a.npz") as file:
        others = {name: array + 0.1 if name == "top_logits.0" else array for name, array in file.items()}
    np.savez(work / "c.npz", **others)
    run("validate", "out/a-0.2", "--against-golden", "c.npz", "--quiet").refused(3, "mean_kl 0.11 > 0.001")
    flip_a_weight(done / "a-0.2")
    against = ("validate", "out/a-0.2", "--quiet", "--against-golden")
    run(*against, "a.npz").refused(7, "not the file that a.npz was made from")
    np.savez(work / "objects.npz", about=np.array([{}]))
    (work / "damaged.npz").write_bytes(b"\x80damaged")
    for name in ("a.jsonl", "objects.npz", "damaged.npz"):
        message = run(*against, name).refused(2, f"{name}: not a golden file")
        assert "pickle" not in message  # numpy itself advises to load such a file unsafely
