"""All faults that are planted."""

from __future__ import annotations

from mutations import (
    faults_attention,
    faults_block,
    faults_both,
    faults_factors,
    faults_manifest,
    faults_model,
    faults_norms,
    faults_onnx_folder,
    faults_outside,
    faults_projections,
    faults_quantised,
    faults_rotations,
    faults_router,
    faults_scaling,
    faults_tokenizer,
    faults_wiring,
)
from mutations.faults import Fault

__all__ = ["FAULTS", "NUMERIC"]

FAULTS: tuple[Fault, ...] = (
    *faults_projections.FAULTS,
    *faults_attention.FAULTS,
    *faults_wiring.FAULTS,
    *faults_norms.FAULTS,
    *faults_factors.FAULTS,
    *faults_rotations.FAULTS,
    *faults_outside.FAULTS,
    *faults_quantised.FAULTS,
    *faults_scaling.FAULTS,
    *faults_both.FAULTS,
    *faults_model.FAULTS,
    *faults_block.FAULTS,
    *faults_onnx_folder.FAULTS,
    *faults_tokenizer.FAULTS,
    *faults_manifest.FAULTS,
    *faults_router.FAULTS,
)
NUMERIC: tuple[Fault, ...] = tuple(fault for fault in FAULTS if fault.kind == "numeric")
