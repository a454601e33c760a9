"""Diagnoses what this machine can run and what to install, with only numpy and onnxruntime."""

from seap_export.runtime.doctor.diagnosis import SCHEMA, Diagnosis, ProviderCheck, ProviderState, diagnose

__all__ = ["SCHEMA", "Diagnosis", "ProviderCheck", "ProviderState", "diagnose"]
