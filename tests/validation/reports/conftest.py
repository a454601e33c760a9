"""Two reports as `seap-export validate` writes them: one that passes, one with failures of every kind."""

from __future__ import annotations

import math
from typing import Any

import pytest

from seap_export.pipeline.gate.recommended import Limits, recommended

LAYERS, DENSE_PARAMETERS = 30, 134_515_008
#: The failing report carries these as names and in reasons.
HOSTILE = 'a|b <script>alert("x")</script> `*_[x](y)'
CONTROL = "\x00\x1b[31m\x08\ud800"


FORMAT = {"title": "ONNX", "format": "onnx", "precision": "fp32", "form": {"dialect": "fused", "logits": "all"}}
EXACT = ("max_abs", "cache_error")
FIGURES = {
    "max_abs": 1.1e-4, "mean_abs": 9e-6, "mean_kl_nats": 2.2e-11, "p999_kl_nats": 4.1e-11, "max_kl_nats": 4.5e-11,
    "cache_error": 2.4e-5, "cache_max_abs": 3.2e-5,
}  # fmt: skip


def _case(case: str, stage: str, scale: float, judged_by: tuple[str, ...] = EXACT, **changes: Any) -> dict[str, Any]:
    is_prefill = stage == "prefill"
    return {
        **{"case": case, "stage": stage, "rows": 3 if "batch" in case else 1, "tokens": 120 if is_prefill else 8},
        **{name: value * scale for name, value in FIGURES.items()},
        **{"limits": dict.fromkeys(judged_by, 1e-3), "noise": {"max_abs": 1e-5, "cache_error": 1e-6}},
        **{"verdict": "passed", "worst": {"row": 0, "position": 8, "token_id": 63}, "cache_defect": "", "defects": []},
        "top1_agreement": 1.0 if scale < 10 else 0.9583,
        "top1_agreement_margin": 1.0 if is_prefill else None,
        "perplexity_ratio": 1.0000123 if is_prefill else None,
        **changes,
    }


def _parity(**changes: Any) -> dict[str, Any]:
    names = [*(f"prompt {index}" for index in range(4)), "batch of 3"]
    return {
        **{"schema": "seap-export/parity/5", "format": "onnx", "runtime": "onnxruntime", "precision": "fp32"},
        **{"verdict": "passed", "failure": "", "reasons": [], "looser_limits": [], "notes": []},
        **{"max_abs": 1.1e-4, "top1_agreement": 1.0, "mean_kl_nats": 2.2e-11},
        "form": {"precision": {"dtype": "fp32", "quantization": None}, "dialect": "fused", "logits": "all"},
        "limits": {"max_abs": 1e-3, "cache_error": 1e-3},
        "smallest_passing_limits": {"max_abs": 1.2e-4},
        "cases": [_case(name, stage, 1.0) for name in names for stage in ("prefill", "decode")],
        **changes,
    }


SAMPLE = {"prompt": "How do I boil an egg?", "dense": " Put it in water.", "variant": " Put it in <hot> water."}


def _divergence(mean_kl: float) -> dict[str, Any]:
    times = {"mean": 1, "median": 1 / 5, "p99": 8, "p999": 20, "max": 41}
    return {
        **{f"{name}_kl_nats": factor * mean_kl for name, factor in times.items()},
        **{"mean_kl_nats_stderr": mean_kl / 6, "top1_agreement": 1 - mean_kl, "top1_agreement_stderr": 0.012},
        **{"loss_difference_nats": mean_kl / 2, "loss_difference_nats_stderr": mean_kl / 16},
        **{"perplexity": 14.21 * math.exp(mean_kl), "dense_perplexity": 14.21, "tokens": 3012},
    }


def _elsewhere(task: str, kls: dict[str, float]) -> dict[str, Any]:
    """What an export measures on every task's texts; `kls` by the name of the texts."""
    measured = {"dense_bits_per_byte": 0.9, "texts": 8, "tokens": 812, "bytes": 3304, "sha256": "a4" * 32}
    return {
        "onnx": {
            name: {"own": name == task, "mean_kl_nats": mean_kl, "mean_kl_nats_stderr": mean_kl / 8}
            | {"bits_per_byte": 0.9 + mean_kl / 4, **measured}
            for name, mean_kl in kls.items()
        }
    }


def _quality(mean_kl: float, max_kl: float | None = 0.1, **changes: Any) -> dict[str, Any]:
    return {
        "schema": "seap-export/evaluation/2",
        "verdict": None if max_kl is None else "passed" if mean_kl <= max_kl else "failed",
        "reasons": [],
        "limits": {"max_kl_nats": max_kl, "min_accuracy_retained": None},
        "divergence": {"hf": _divergence(mean_kl), "onnx": _divergence(mean_kl * 1.02)},
        "zero_shot": {},
        "accuracy_retained": {},
        **changes,
    }


def _speed(decode: float, prefill: float) -> dict[str, Any]:
    cells = [(1, 128, 210.4, 21.9), (1, 512, 911.0, 24.2), (4, 128, 805.5, 40.3)]
    verdicts = [
        {"figure": figure, "batch": batch, "depth": depth, "limit": 1.1, "found": measured, "verdict": "passed"}
        | {"low": measured - 0.04 * batch, "high": measured + 0.05 * batch}
        for batch, depth, *_ in cells
        for figure, measured in (("decode_speedup", decode), ("prefill_speedup", prefill))
    ]
    size = {"figure": "bytes_ratio", "batch": None, "depth": None, "limit": 1.0, "found": 0.82}
    return {
        "limits": {"min_decode_speedup": 1.1, "min_prefill_speedup": 1.1, "max_bytes_ratio": 1.0},
        "verdicts": [*verdicts, {**size, "low": None, "high": None, "verdict": "passed"}],
        "dense": [{"batch": b, "depth": d, "prefill_ms": p, "decode_ms_per_token": s} for b, d, p, s in cells],
        "variant": [
            {"batch": b, "depth": d, "prefill_ms": p / prefill, "decode_ms_per_token": s / decode}
            for b, d, p, s in cells
        ],
    }


def recorded_speed(decode: float, prefill: float) -> dict[str, Any]:
    """What an export records: figures without limits, and the share of the ideal speed-up that they reach."""
    dense = {"batch": 1, "depth": 128, "prefill_ms": 200.0, "decode_ms_per_token": 20.0}
    variant = {**dense, "prefill_ms": 200.0 / prefill, "decode_ms_per_token": 20.0 / decode}
    for what, value in (("decode", decode), ("prefill", prefill)):
        ends = {"": value, "_low": value - 0.02, "_high": value + 0.02}
        variant |= {f"{what}_speedup{end}": figure for end, figure in ends.items()}
        variant |= {f"{what}_ideal_speedup": value / 0.96, f"{what}_share_of_ideal": 0.96}
    return {"limits": {}, "verdicts": [], "dense": [dense], "variant": [variant]}


def _layers(ratio: float) -> list[dict[str, Any]]:
    kept = [1.0 if i in (0, LAYERS - 1) else 1 - ratio * (0.6 + 0.8 * i / LAYERS) for i in range(LAYERS)]
    return [
        {
            "num_attention_heads": max(3, round(9 * share / 3) * 3),
            "num_key_value_heads": max(1, round(3 * share)),
            "intermediate_size": round(1536 * share / 16) * 16,
            "kept": share,
        }
        for share in kept
    ]


def _variant(task: str | None, ratio: float, **changes: Any) -> dict[str, Any]:
    parameters = round(DENSE_PARAMETERS * (1 - 0.79 * ratio))
    return {
        **{"task": task, "method": "reconstruct", "requested_ratio": ratio, "achieved_ratio": ratio + 0.0013},
        **{"num_parameters": parameters, "dense_parameters": DENSE_PARAMETERS, "formats": {"onnx": FORMAT}},
        "bytes": {"hf": parameters * 4, "onnx": parameters * 4 + 812_345},
        "dense_bytes": {"hf": DENSE_PARAMETERS * 4, "onnx": DENSE_PARAMETERS * 4 + 901_234},
        **{"layers": _layers(ratio), "parity": {"onnx": _parity()}, "bisect": None},
        **{"quality": _quality(0.12 * ratio), "speed": _speed(1.24, 1.18)},
        **changes,
    }


def check(variant: str | None, name: str, verdict: str = "passed", exit_code: int = 0, **told: Any) -> dict[str, Any]:
    told = {"reasons": [], "notes": [], **told}
    return {"variant": variant, "check": name, "subject": None, "verdict": verdict, "exit_code": exit_code, **told}


def _passing() -> dict[str, Any]:
    accuracy = {"acc": 0.5421, "acc_norm": None, "acc_stderr": 0.02, "acc_norm_stderr": None}
    figures = {task: {**accuracy, "questions": n, "chance": 0.5} for task, n in (("piqa", 500), ("boolq", 64))}
    exact = {"questions": 200, "exact_match_stderr": 0.03, "never_stopped": 0.0, "unanswered": 0.0, "samples": []}
    generation = {
        "dense": {"gsm8k": {**exact, "exact_match": 0.335, "mean_tokens": 96.4}},
        "onnx": {"gsm8k": {**exact, "exact_match": 0.29, "mean_tokens": 133.7, "never_stopped": 0.125}},
    }
    turned = {name: {"right_to_wrong": a, "wrong_to_right": b} for name, a, b in (("piqa", 41, 43), ("gsm8k", 17, 8))}
    differences = {"onnx": {"piqa": {"mean": 0.004, "stderr": 0.018}, "gsm8k": {"mean": -0.045, "stderr": 0.025}}}
    answered = {"zero_shot": {"dense": figures, "onnx": figures}, "generation": generation}
    answered |= {"flipped": {"onnx": turned}, "accuracy_difference": differences}
    # float32 and rounded activations: the second pass is judged by its divergence, not by single logits
    limits = {"max_abs": 0.01, "cache_error": 1e-3, "mean_kl": 0.02}
    looser = ["int4 max_abs 0.01 is looser than the default 0.001"]
    int4 = _parity(limits=limits, looser_limits=looser, notes=looser, mean_kl_nats=0.006)
    int4["cases"] += [_case("prompt 0, as it is", "prefill", 900, ("mean_kl",), mean_kl_nats=0.006)]
    of_arithmetic = _elsewhere("arithmetic", {"arithmetic": 0.024, "everyday": 3.2, "general text": 1.7})
    of_everyday = _elsewhere("everyday", {"arithmetic": 0.44, "everyday": 0.061, "general text": 0.12})
    variants = {
        "arithmetic-0.2": _variant("arithmetic", 0.2, quality=_quality(0.024, elsewhere=of_arithmetic)),
        "everyday-0.35": _variant(
            "everyday",
            0.35,
            quality=_quality(0.061, sample=SAMPLE, elsewhere=of_everyday, **answered),
            speed=recorded_speed(1.25, 1.5),
        ),
        "general-0.5": _variant(
            None,
            0.5,
            formats={"onnx": FORMAT | {"precision": "int4"}},
            parity={"onnx": int4},
            **{"quality": None, "speed": None, "dense_bytes": {"hf": 538_060_032, "onnx": None}},
            bytes={"hf": 325_500_112, "onnx": 58_210_330},
        ),
    }
    checks = [check(None, "integrity"), check(None, "router")]
    checks += [check(name, "parity", notes=variant["parity"]["onnx"]["notes"]) for name, variant in variants.items()]
    checks += [check(name, part) for name in list(variants)[:2] for part in ("quality", "speed")]
    skipped = "skipped", 0
    checks += [
        check("general-0.5", name, *skipped, notes=["no dense model was given"]) for name in ("quality", "speed")
    ]
    return {
        **{
            "schema": "seap-export/validation/2",
            "verdict": "passed",
            "exit_code": 0,
            "failure": "",
            "name": "demo-output",
        },
        "source": {"name": "SmolLM2-135M-Instruct.Q4_1.gguf", "sha256": "5f" * 32},
        "checks": checks,
        "variants": variants,
        "tasks": {
            name: {"seed": 0, "max_length": 512, "calibration_texts": 200, "calibration_tokens": 24_117}
            | {"held_out_texts": 16, "corpus": f"{name}.jsonl"}
            for name in ("arithmetic", "everyday")
        },
        "files": {
            f"{name}/{path}": {"bytes": size, "sha256": f"{index:02x}" * 32}
            for index, name in enumerate(variants)
            for path, size in (("hf/model.safetensors", 453_000_000), ("onnx/model.onnx", 812_345), ("plan.json", 812))
        },
        "versions": {"seap-export": "0.1.0", "onnxruntime": "1.31.1", "torch": "2.13.0+cpu", "transformers": "5.24.0"},
        "machine": {"processor": "A CPU @ 2.10GHz", "system": "Linux 6.1 x86_64", "python": "3.13.5", "threads": 2},
    }


def _bisect() -> dict[str, Any]:
    taps = [{"name": "embedding", "layer": None, "sublayer": "embedding", "error": 0.0}]
    for layer in range(LAYERS):
        error = 2e-7 * 1.3**layer if layer < 12 else 0.04 * 1.2 ** (layer - 12)
        taps += [
            {"name": f"/model/layers.{layer}/{part}/output", "layer": layer, "sublayer": part, "error": error * more}
            for part, more in (("attention", 1.0), ("mlp", 1.1))
        ]
    taps.append({"name": "logits", "layer": None, "sublayer": "head", "error": None})
    taps[-2]["error"] = None
    overflows = [
        {"name": "/model/layers.29/mlp/output", "kind": "inf", "reference_max_abs": 71_204.0},
        {"name": "/model/layers.28/mlp/gate", "kind": "near", "reference_max_abs": 61_350.5},
    ]
    return {"case": "prompt 1", "stage": "decode", "first": dict(taps[25]), "taps": taps, "overflows": overflows}


def _failing() -> dict[str, Any]:
    report = _passing()
    reason = "max abs 0.412 > 0.001 at case 'prompt 1', row 0, decode step 3, token id 63"
    parity = _parity(verdict="failed", max_abs=0.412, mean_kl_nats=0.031)
    parity["reasons"], parity["top1_agreement"] = [reason], 0.875
    parity["cases"][3] = _case("prompt 1", "decode", 3745.0, max_abs=0.412, mean_kl_nats=0.031, verdict="failed")
    defect = {"kind": "nan", "side": "candidate", "tokens": 2, "detail": "", "place": parity["cases"][5]["worst"]}
    lost = ("max_abs", "mean_abs", "worst", "mean_kl_nats", "p999_kl_nats", "max_kl_nats", "top1_agreement")
    told = {"verdict": "failed", "defects": [defect], "cache_defect": "NaN in the keys of layer 29"}
    parity["cases"][5] = _case("prompt 2", "decode", 1.0, **dict.fromkeys(lost), **told)
    slow = _speed(0.97, 1.31)
    for verdict in slow["verdicts"]:
        if verdict["figure"] == "decode_speedup":
            verdict["verdict"] = "too noisy" if verdict["batch"] == 4 else "failed"
    del report["variants"]["everyday-0.35"]["quality"]["limits"]["max_kl_nats"]
    empty = _variant(
        None,
        0.0,
        **dict.fromkeys(("method", "requested_ratio", "achieved_ratio", "num_parameters", "dense_parameters")),
        **dict.fromkeys(("quality", "speed")),
        **{"parity": {}, "layers": [], "bytes": {"hf": 0, "onnx": 0}, "dense_bytes": {"hf": None, "onnx": None}},
    )
    report["variants"] = {
        "everyday-0.35": report["variants"]["everyday-0.35"],
        "arithmetic-0.5": _variant(
            "arithmetic", 0.5, parity={"onnx": parity}, bisect=_bisect(), quality=_quality(0.31), speed=slow
        ),
        HOSTILE: empty,
    }
    report["checks"] = [
        check(None, "integrity", "failed", 7, reasons=[f"file {index} is missing" for index in range(7)]),
        check("everyday-0.35", "parity"),
        check("everyday-0.35", "quality", notes=["the calibration folder is missing"]),
        check("arithmetic-0.5", "parity", "failed", 3, reasons=[reason, "NaN in the candidate's logits (2 tokens)"]),
        check("arithmetic-0.5", "quality", "failed", 4, reasons=["onnx: mean KL 0.3162 nats is above 0.1"]),
        check("arithmetic-0.5", "speed", "failed", 5, reasons=["decode, batch 1, 128 tokens: 0.97 is below 1.1"]),
        check(HOSTILE, "parity", "failed", 6, reasons=[f"no session for {HOSTILE}{CONTROL}\nsecond line"]),
        check("lost-0.2", "integrity", "failed", 7, reasons=["lost-0.2/onnx/model.onnx is damaged"]),
        check("lost-0.2", "speed", "skipped", notes=["lost-0.2 is damaged"]),
        check(None, "router", "failed", 7, reasons=["router.json refers to 'c-0.2', which is not a variant"]),
    ]
    return report | {"verdict": "failed", "exit_code": 7, "failure": "file 0 is missing", "name": f"out {HOSTILE}"}


def _shipped() -> dict[str, Any]:
    """The passing report of an export, which recommends a file."""
    passing = _passing()
    whole = {
        f"everyday-whole-{precision}": {
            **{
                "task": "everyday",
                "precision": precision,
                "beside": "fp32",
                "options": {},
                "refusal": "",
                "bytes": size,
            },
            "command": f"seap-export export m --task everyday=e.jsonl --ratio 0 --precision {precision} --out out",
            "memory_about": size + 123_600_000,
            "quality": {"divergence": {"onnx": _divergence(kl)}, "folder": "onnx", "runtime": "onnxruntime"},
            "speed": recorded_speed(speedup, 1.6),
        }
        for precision, size, kl, speedup in (("int4", 86_400_000, 0.032, 3.25), ("int8", 153_700_000, 0.004, 2.5))
    }
    shipped = recommended(passing["variants"], whole, Limits())
    return {**passing, "source": {**passing["source"], "bytes": 98_000_000}, "whole": whole, "recommended": shipped}


@pytest.fixture(scope="session")
def samples() -> dict[str, dict[str, Any]]:
    """A passing and a failing report, for readers that change nothing."""
    return {"passing": _shipped(), "failing": _failing()}


@pytest.fixture
def passing() -> dict[str, Any]:
    """Three variants, two of them with everything measured."""
    return _passing()


@pytest.fixture
def failing() -> dict[str, Any]:
    """Failures of integrity, parity, quality, speed, router and environment; names that try to break out."""
    return _failing()
