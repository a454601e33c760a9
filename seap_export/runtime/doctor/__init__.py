"""Diagnoses what this machine can run and what to install, with only numpy and onnxruntime."""

from seap_export.runtime.doctor.diagnosis import Diagnosis, ProviderState, diagnose

__all__ = ["Diagnosis", "ProviderState", "diagnose"]
