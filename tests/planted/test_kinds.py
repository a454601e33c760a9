"""All faults together: every kind is planted in each format and in each precision where it can occur."""

from __future__ import annotations

from itertools import chain

import pytest
from planted.artifacts import BASES
from planted.fault import KINDS
from planted.test_faults import FAULTS, MISSED, NUMERIC
from planted.test_format_faults import FAULTS as FORMAT_FAULTS
from planted.test_format_faults import SUBJECTS

pytestmark = pytest.mark.release
#: Kinds that cannot occur: a GGUF file has no graph, some store no zero points, and only models in `hf` and MLX have
#: code.
LACKS: dict[str, set[str]] = {
    "onnx": set(),
    "gguf": {"zero point", "wiring", "attribute", "constant", "code"},
    "mlx": {"metadata"},
    "openvino": {"zero point", "code"},
    "litert": {"code"},
    "executorch": {"zero point", "code"},
    "fp32": {"scale", "zero point"},
    "fp16": {"scale", "zero point"},
    "int8": set(),
    "int4": set(),
    "w8a8": {"zero point"},
    "w4a8": {"zero point"},
    "mixed": {"zero point"},
}
#: The precisions of formats that call them something else.
_NAMES = {"f32": "fp32", "f16": "fp16", "q8_0": "int8", "8bit": "int8", "q4_0": "int4", "4bit": "int4"}


def test_every_kind_meets_every_format_and_precision() -> None:
    planted = {(name, fault.kind) for fault in FAULTS for name in ("onnx", BASES[fault.base].precision)}
    for format_name, faults in FORMAT_FAULTS.items():
        for fault in faults:
            precision = SUBJECTS[format_name].bases[fault.base].precision
            planted |= {(format_name, fault.kind), (_NAMES.get(precision, precision), fault.kind)}
    assert planted == {(name, kind) for name, lacks in LACKS.items() for kind in KINDS if kind not in lacks}


def test_names_differ_and_each_artifact_is_used() -> None:
    named = {"onnx": {fault.id: fault.base for fault in FAULTS}}
    named |= {name: {fault.id: fault.base for fault in faults} for name, faults in FORMAT_FAULTS.items()}
    assert {name: set(bases.values()) for name, bases in named.items()} == {
        "onnx": set(BASES),
        **{name: set(subject.bases) for name, subject in SUBJECTS.items()},
    }
    assert sum(map(len, named.values())) == len([*chain(FAULTS, *FORMAT_FAULTS.values())]) <= 256, (
        "one for a pair will do"
    )
    assert MISSED.keys() <= {fault.id for fault in FAULTS}


def test_at_least_nine_in_ten_numeric_faults_are_bisected() -> None:
    """To the layer that `test_a_fault_is_stopped` asserts."""
    assert sum(fault.is_bisected for fault in NUMERIC) >= 0.9 * len(NUMERIC)
