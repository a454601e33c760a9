"""What this machine can do, and what to install if it cannot; with numpy and onnxruntime alone."""

from seap_export.runtime.doctor.diagnosis import SCHEMA, Check, Diagnosis, ProviderState, diagnose

__all__ = ["SCHEMA", "Check", "Diagnosis", "ProviderState", "diagnose"]
