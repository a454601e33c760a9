"""Leaves the files that a command of the run would leave, in no time.

python pretend.py FAILING.json seap-export|python|genai|make|nvidia-smi ARGUMENTS
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

_CELL = {
    **{"batch": 1, "depth": 128, "prefill_s": 0.002, "decode_step_s": 0.001, "decode_share_of_ideal": 0.9},
    **{f"{what}_speedup{end}": 1.25 for what in ("prefill", "decode") for end in ("", "_low", "_high")},
}
_PARITY = {
    **{"verdict": "passed", "mean_kl_nats": 1e-6, "max_abs": 0.01, "top1_agreement": 1.0, "longest_tokens": 99},
    "reasons": [],
    "provider": {
        "obtained": "CUDAExecutionProvider",
        "nodes": {"CUDAExecutionProvider": {"MatMul": 9}, "CPUExecutionProvider": {"Squeeze": 1}},
    },
}
_DOCTOR = {
    "machine": {"processor": "a processor", "cores": 8, "free_memory_bytes": 10**11},
    "driver": {"cuda_version": "13.0", "gpus": [{"name": "NVIDIA Pretended", "memory_bytes": 24 * 10**9}]},
    "onnxruntime": {"distributions": {"onnxruntime-gpu": "1.31.1"}, "cuda_version": "13.0"},
    "packages": {"torch": "2.13.0"},
    "warnings": [],
}
_GENAI = {"version": "0.18.0", "device": "CUDA", "generated": [5], "text": " 19", "largest_gap": 0.01, "limit": 0.1}
_PROFILE = {"calls": [{"nodes": 3, "ms": 1.0}], "step": {"CUDAExecutionProvider": {"MatMul": 3}}, "microseconds": {}}


def _put(path: Path, values: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), "utf-8")


def _bench(arguments: list[str]) -> dict[str, object]:
    precision = arguments[arguments.index("--precision") + 1]
    variants = [Path(argument).name for argument in arguments[1 : arguments.index("--dense")]]
    subjects = [{"model": name, "disk_bytes": 10**6, "cells": [_CELL]} for name in ("dense", *variants)]
    return {"setting": {"form": {"precision": {"dtype": precision}}}, "subjects": subjects}


def _main(failing: dict[str, int], program: str, arguments: list[str]) -> int:
    verb = {"python": arguments[1:2], "seap-export": arguments[:1]}.get(program, [program])[0].rpartition(".")[2]
    print(f"pretending {verb}", file=sys.stderr)
    code = failing.get(verb, 0)
    if code == 99:
        time.sleep(60)
    if code < 0:
        os.kill(os.getpid(), -code)
    out = Path(arguments[arguments.index("--out") + 1]) if "--out" in arguments else None
    if code:
        print(f"Error: {verb} was told to fail", file=sys.stderr)
        return code
    if verb == "doctor" and "--json" in arguments:
        print(json.dumps(_DOCTOR))
    elif verb == "convert":
        _put(out / "model.onnx", {})
    elif verb == "validate":
        _put(out, {"variants": {"own": {"parity": _PARITY}}})
    elif verb == "bench":
        _put(out, _bench(arguments))
    elif verb == "prune":
        _put(out / "config.json", {})
    elif verb == "calibrate":
        _put(out / "calibration" / "calibration.json", {})
    elif verb == "random_model":
        _put(Path(arguments[3]) / "config.json", {})
    elif verb in ("genai_gaps", "profile"):
        _put(out, _GENAI if verb == "genai_gaps" else _PROFILE)
    return 0


if __name__ == "__main__":
    sys.exit(_main(json.loads(Path(sys.argv[1]).read_text("utf-8")), sys.argv[2], sys.argv[3:]))
