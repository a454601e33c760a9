"""Diagnoses what this machine can run and what to install, with only numpy and onnxruntime."""

from seap_export.runtime.doctor.diagnosis import Diagnosis, ProviderCheck, ProviderState, diagnose

__all__ = ["Diagnosis", "ProviderCheck", "ProviderState", "diagnose"]
