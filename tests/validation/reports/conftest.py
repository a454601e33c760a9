"""Two reports as `seap-export validate` writes them: one that passes, one with failures of every kind."""

from __future__ import annotations

import math
from typing import Any

import pytest

from seap_export.pipeline.gate.recommended import Limits, recommended

Values = dict[str, Any]
LAYERS, DENSE_PARAMETERS = 30, 134_515_008
#: The failing report carries these as names and in reasons.
HOSTILE = 'a|b <script>alert("x")</script> `*_[x](y)'
CONTROL = "\x00\x1b[31m\x08\ud800"
FORMAT = {"title": "ONNX", "format": "onnx", "precision": "fp32", "form": {"dialect": "fused", "logits": "all"}}
FIGURES = {
    "max_abs": 1.1e-4, "mean_abs": 9e-6, "mean_kl_nats": 2.2e-11, "p999_kl_nats": 4.1e-11, "max_kl_nats": 4.5e-11,
    "cache_error": 2.4e-5, "cache_max_abs": 3.2e-5,
}  # fmt: skip
SAMPLE = {"prompt": "How do I boil an egg?", "dense": " Put it in water.", "variant": " Put it in <hot> water."}


def _case(case: str, stage: str, scale: float = 1.0, judged_by: str = "max_abs cache_error", **changes: Any) -> Values:
    is_prefill = stage == "prefill"
    return {
        **{"case": case, "stage": stage, "rows": 3 if "batch" in case else 1, "tokens": 120 if is_prefill else 8},
        **{name: value * scale for name, value in FIGURES.items()},
        **{"limits": dict.fromkeys(judged_by.split(), 1e-3), "noise": {"max_abs": 1e-5, "cache_error": 1e-6}},
        **{"verdict": "passed", "worst": {"row": 0, "position": 8, "token_id": 63}, "cache_defect": "", "defects": []},
        **{"top1_agreement": 1.0 if scale < 10 else 0.9583, "top1_agreement_margin": 1.0 if is_prefill else None},
        **{"perplexity_ratio": 1.0000123 if is_prefill else None, **changes},
    }


def _parity(**changes: Any) -> Values:
    names = [*(f"prompt {index}" for index in range(4)), "batch of 3"]
    return {
        **{"schema": "seap-export/parity/5", "format": "onnx", "runtime": "onnxruntime", "precision": "fp32"},
        **{"verdict": "passed", "failure": "", "reasons": [], "looser_limits": [], "notes": []},
        **{"max_abs": 1.1e-4, "top1_agreement": 1.0, "mean_kl_nats": 2.2e-11},
        "form": {"precision": {"dtype": "fp32", "quantization": None}, "dialect": "fused", "logits": "all"},
        **{"limits": {"max_abs": 1e-3, "cache_error": 1e-3}, "smallest_passing_limits": {"max_abs": 1.2e-4}},
        "cases": [_case(name, stage) for name in names for stage in ("prefill", "decode")],
        **changes,
    }


def _divergence(mean_kl: float) -> Values:
    times = {"mean": 1, "median": 1 / 5, "p99": 8, "p999": 20, "max": 41}
    return {
        **{f"{name}_kl_nats": factor * mean_kl for name, factor in times.items()},
        **{"mean_kl_nats_stderr": mean_kl / 6, "top1_agreement": 1 - mean_kl, "top1_agreement_stderr": 0.012},
        **{"loss_difference_nats": mean_kl / 2, "loss_difference_nats_stderr": mean_kl / 16},
        **{"perplexity": 14.21 * math.exp(mean_kl), "dense_perplexity": 14.21, "tokens": 3012},
    }


def _quality(mean_kl: float, elsewhere: tuple[float, ...] = (), own: int = 0, **changes: Any) -> Values:
    """With the divergence `elsewhere`, on each task's texts, of which one is its own."""
    measured = {"dense_bits_per_byte": 0.9, "texts": 8, "tokens": 812, "bytes": 3304, "sha256": "a4" * 32}
    texts = {
        name: {"own": index == own, "mean_kl_nats": kl, "mean_kl_nats_stderr": kl / 8, "bits_per_byte": 0.9 + kl / 4}
        | measured
        for index, (name, kl) in enumerate(zip(("arithmetic", "everyday", "general text"), elsewhere, strict=False))
    }
    return {
        **{"schema": "seap-export/evaluation/2", "verdict": "passed" if mean_kl <= 0.1 else "failed", "reasons": []},
        **{"limits": {"max_kl_nats": 0.1, "min_accuracy_retained": None}, "zero_shot": {}, "accuracy_retained": {}},
        "divergence": {"hf": _divergence(mean_kl), "onnx": _divergence(mean_kl * 1.02)},
        **({"elsewhere": {"onnx": texts}} if texts else {}),
        **changes,
    }


def _speed(decode: float, prefill: float) -> Values:
    cells = [(1, 128, 210.4, 21.9), (1, 512, 911.0, 24.2), (4, 128, 805.5, 40.3)]
    verdicts = [
        {"figure": figure, "batch": batch, "depth": depth, "limit": 1.1, "found": measured, "verdict": "passed"}
        | {"low": measured - 0.04 * batch, "high": measured + 0.05 * batch}
        for batch, depth, *_ in cells
        for figure, measured in (("decode_speedup", decode), ("prefill_speedup", prefill))
    ]
    size = dict.fromkeys(("batch", "depth", "low", "high")) | {"figure": "bytes_ratio", "limit": 1.0, "found": 0.82}
    dense, variant = (
        [{"batch": b, "depth": d, "prefill_ms": p / by, "decode_ms_per_token": s / also} for b, d, p, s in cells]
        for by, also in ((1.0, 1.0), (prefill, decode))
    )
    return {
        "limits": {"min_decode_speedup": 1.1, "min_prefill_speedup": 1.1, "max_bytes_ratio": 1.0},
        **{"verdicts": [*verdicts, size | {"verdict": "passed"}], "dense": dense, "variant": variant},
    }


def _recorded_speed(decode: float, prefill: float) -> Values:
    """What an export records: figures without limits, and the share of the ideal speed-up that they reach."""
    dense = {"batch": 1, "depth": 128, "prefill_ms": 200.0, "decode_ms_per_token": 20.0}
    variant = {**dense, "prefill_ms": 200.0 / prefill, "decode_ms_per_token": 20.0 / decode}
    for what, value in (("decode", decode), ("prefill", prefill)):
        ends = {"": value, "_low": value - 0.02, "_high": value + 0.02}
        variant |= {f"{what}_speedup{end}": figure for end, figure in ends.items()}
        variant |= {f"{what}_ideal_speedup": value / 0.96, f"{what}_share_of_ideal": 0.96}
    return {"limits": {}, "verdicts": [], "dense": [dense], "variant": [variant]}


def _variant(task: str | None, ratio: float, **changes: Any) -> Values:
    parameters = round(DENSE_PARAMETERS * (1 - 0.79 * ratio))
    kept = [1.0 if i in (0, LAYERS - 1) else 1 - ratio * (0.6 + 0.8 * i / LAYERS) for i in range(LAYERS)]
    sizes = {"num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1536}
    return {
        **{"task": task, "method": "reconstruct", "requested_ratio": ratio, "achieved_ratio": ratio + 0.0013},
        **{"num_parameters": parameters, "dense_parameters": DENSE_PARAMETERS, "formats": {"onnx": FORMAT}},
        "bytes": {"hf": parameters * 4, "onnx": parameters * 4 + 812_345},
        "dense_bytes": {"hf": DENSE_PARAMETERS * 4, "onnx": DENSE_PARAMETERS * 4 + 901_234},
        "layers": [
            {name: math.ceil(size * share) for name, size in sizes.items()} | {"kept": share} for share in kept
        ],
        **{"parity": {"onnx": _parity()}, "bisect": None},
        **{"quality": _quality(0.12 * ratio), "speed": _speed(1.24, 1.18), **changes},
    }


def _check(variant: str | None, name: str, verdict: str = "passed", exit_code: int = 0, **told: Any) -> Values:
    told = {"subject": None, "reasons": [], "notes": [], **told}
    return {"variant": variant, "check": name, "verdict": verdict, "exit_code": exit_code, **told}


def _answers() -> Values:
    """Of questions with choices and of generated answers."""
    accuracy = {"acc": 0.5421, "acc_norm": None, "acc_stderr": 0.02, "acc_norm_stderr": None}
    figures = {task: {**accuracy, "questions": n, "chance": 0.5} for task, n in (("piqa", 500), ("boolq", 64))}
    exact = {"questions": 200, "exact_match_stderr": 0.03, "never_stopped": 0.0, "unanswered": 0.0, "samples": []}
    generation = {
        "dense": {"gsm8k": {**exact, "exact_match": 0.335, "mean_tokens": 96.4}},
        "onnx": {"gsm8k": {**exact, "exact_match": 0.29, "mean_tokens": 133.7, "never_stopped": 0.125}},
    }
    turned = {name: {"right_to_wrong": a, "wrong_to_right": b} for name, a, b in (("piqa", 41, 43), ("gsm8k", 17, 8))}
    differences = {"onnx": {"piqa": {"mean": 0.004, "stderr": 0.018}, "gsm8k": {"mean": -0.045, "stderr": 0.025}}}
    return {
        **{"zero_shot": {"dense": figures, "onnx": figures}, "generation": generation},
        **{"flipped": {"onnx": turned}, "accuracy_difference": differences},
    }


def _passing() -> Values:
    # float32 and rounded activations: the second pass is judged by its divergence, not by single logits
    looser = ["int4 max_abs 0.01 is looser than the default 0.001"]
    int4 = _parity(limits={"max_abs": 0.01, "cache_error": 1e-3, "mean_kl": 0.02}, mean_kl_nats=0.006)
    int4 |= {"looser_limits": looser, "notes": looser}
    int4["cases"] += [_case("prompt 0, as it is", "prefill", 900, "mean_kl", mean_kl_nats=0.006)]
    everyday = _quality(0.061, (0.44, 0.061, 0.12), 1, sample=SAMPLE, **_answers())
    variants = {
        "arithmetic-0.2": _variant("arithmetic", 0.2, quality=_quality(0.024, (0.024, 3.2, 1.7))),
        "everyday-0.35": _variant("everyday", 0.35, quality=everyday, speed=_recorded_speed(1.25, 1.5)),
        "general-0.5": _variant(None, 0.5, parity={"onnx": int4}, quality=None, speed=None),
    }
    variants["general-0.5"] |= {
        **{"formats": {"onnx": FORMAT | {"precision": "int4"}}, "bytes": {"hf": 325_500_112, "onnx": 58_210_330}},
        "dense_bytes": {"hf": 538_060_032, "onnx": None},
    }
    whole, skipped = [_check(None, "integrity"), _check(None, "router")], ["no dense model was given"]
    checks = [_check(name, "parity", notes=variant["parity"]["onnx"]["notes"]) for name, variant in variants.items()]
    checks += [_check(name, part) for name in list(variants)[:2] for part in ("quality", "speed")]
    checks += [_check("general-0.5", name, "skipped", notes=skipped) for name in ("quality", "speed")]
    task = {"seed": 0, "max_length": 512, "calibration_texts": 200, "calibration_tokens": 24_117, "held_out_texts": 16}
    return {
        **{"schema": "seap-export/validation/2", "verdict": "passed", "exit_code": 0, "failure": ""},
        **{"name": "demo-output", "source": {"name": "SmolLM2-135M-Instruct.Q4_1.gguf", "sha256": "5f" * 32}},
        **{"checks": [*whole, *checks], "variants": variants},
        "tasks": {name: task | {"corpus": f"{name}.jsonl"} for name in ("arithmetic", "everyday")},
        "files": {f"{name}/onnx/model.onnx": {"bytes": 812_345, "sha256": "07" * 32} for name in variants},
        "versions": {"seap-export": "0.1.0", "onnxruntime": "1.31.1", "torch": "2.13.0+cpu"},
        "machine": {"processor": "A CPU @ 2.10GHz", "system": "Linux 6.1 x86_64", "python": "3.13.5", "threads": 2},
    }


def _bisect() -> Values:
    taps = [
        {"name": f"/model/layers.{layer}/{part}/output", "layer": layer, "sublayer": part, "error": error}
        for layer in range(LAYERS)
        for part, error in (("attention", 2e-7 * 1.3**layer), ("mlp", None if layer > 20 else 0.04 * 1.1**layer))
    ]
    head = {"name": "logits", "layer": None, "sublayer": "head", "error": None}
    overflows = [
        {"name": taps[place]["name"], "kind": kind, "reference_max_abs": 71_204.0}
        for place, kind in ((-1, "inf"), (-2, "near"))
    ]
    return {"case": "prompt 1", "stage": "decode", "first": taps[25], "taps": [*taps, head], "overflows": overflows}


def _failing() -> Values:
    report, reason = _passing(), "max abs 0.412 > 0.001 at case 'prompt 1', row 0, decode step 3, token id 63"
    parity = _parity(verdict="failed", max_abs=0.412, mean_kl_nats=0.031, reasons=[reason], top1_agreement=0.875)
    parity["cases"][3] = _case("prompt 1", "decode", 3745.0, max_abs=0.412, mean_kl_nats=0.031, verdict="failed")
    defect = {"kind": "nan", "side": "candidate", "tokens": 2, "detail": "", "place": parity["cases"][5]["worst"]}
    lost = ("max_abs", "mean_abs", "worst", "mean_kl_nats", "p999_kl_nats", "max_kl_nats", "top1_agreement")
    told = {"verdict": "failed", "defects": [defect], "cache_defect": "NaN in the keys of layer 29"}
    parity["cases"][5] |= {**dict.fromkeys(lost), **told}
    slow = _speed(0.97, 1.31)
    for verdict in slow["verdicts"]:
        if verdict["figure"] == "decode_speedup":
            verdict["verdict"] = "too noisy" if verdict["batch"] == 4 else "failed"
    del report["variants"]["everyday-0.35"]["quality"]["limits"]["max_kl_nats"]
    empty = dict.fromkeys(("method", "requested_ratio", "achieved_ratio", "num_parameters", "dense_parameters"))
    empty |= {"parity": {}, "layers": [], "bytes": {"hf": 0, "onnx": 0}, "dense_bytes": {"hf": None, "onnx": None}}
    report["variants"] = {
        "everyday-0.35": report["variants"]["everyday-0.35"],
        "arithmetic-0.5": _variant("arithmetic", 0.5, bisect=_bisect(), quality=_quality(0.31), speed=slow),
        HOSTILE: _variant(None, 0.0, quality=None, speed=None, **empty),
    }
    report["variants"]["arithmetic-0.5"]["parity"] = {"onnx": parity}
    a, words = "arithmetic-0.5", [reason, "NaN in the candidate's logits (2 tokens)"]
    report["checks"] = [
        _check(None, "integrity", "failed", 7, reasons=[f"file {index} is missing" for index in range(7)]),
        _check("everyday-0.35", "parity"),
        _check("everyday-0.35", "quality", notes=["the calibration folder is missing"]),
        _check(a, "parity", "failed", 3, reasons=words),
        _check(a, "quality", "failed", 4, reasons=["onnx: mean KL 0.3162 nats is above 0.1"]),
        _check(a, "speed", "failed", 5, reasons=["decode, batch 1, 128 tokens: 0.97 is below 1.1"]),
        _check(HOSTILE, "parity", "failed", 6, reasons=[f"no session for {HOSTILE}{CONTROL}\nsecond line"]),
        _check("lost-0.2", "speed", "skipped", notes=["lost-0.2 is damaged"]),
        _check(None, "router", "failed", 7, reasons=["router.json refers to 'c-0.2', which is not a variant"]),
    ]
    return report | {"verdict": "failed", "exit_code": 7, "failure": "file 0 is missing", "name": f"out {HOSTILE}"}


def _shipped() -> Values:
    """The passing report of an export, which recommends a file."""
    report = _passing()
    whole = {
        f"everyday-whole-{precision}": {
            **{"task": "everyday", "precision": precision, "beside": "fp32", "options": {}, "refusal": ""},
            "command": f"seap-export export m --task everyday=e.jsonl --ratio 0 --precision {precision} --out out",
            **{"bytes": size, "memory_about": size + 123_600_000, "speed": _recorded_speed(speedup, 1.6)},
            "quality": {"divergence": {"onnx": _divergence(kl)}, "folder": "onnx", "runtime": "onnxruntime"},
        }
        for precision, size, kl, speedup in (("int4", 86_400_000, 0.032, 3.25), ("int8", 153_700_000, 0.004, 2.5))
    }
    shipped = recommended(report["variants"], whole, Limits())
    return {**report, "source": {**report["source"], "bytes": 98_000_000}, "whole": whole, "recommended": shipped}


@pytest.fixture(scope="session")
def samples() -> dict[str, Values]:
    """A passing and a failing report, for readers that change nothing."""
    return {"passing": _shipped(), "failing": _failing()}


@pytest.fixture
def passing() -> Values:
    """Three variants, two of them with everything measured."""
    return _passing()


@pytest.fixture
def failing() -> Values:
    """Failures of integrity, parity, quality, speed, router and environment; names that try to break out."""
    return _failing()
