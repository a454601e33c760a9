"""Checks that a dense model is the one that a variant was made from."""

from __future__ import annotations

from seap_export.errors import InputError
from seap_export.model.sources.source import Source
from seap_export.pruning.plan.plan import Plan


def refuse_another_model(source: Source, plan: Plan, variant: str) -> None:
    """Compares the hashes of the two models; hashing reads all files of the dense model once."""
    if source.digest != plan.source_sha256:
        raise InputError(
            f"'{source.name}' is not the model that {variant} was made from ('{plan.source_name}'): the SHA-256 "
            "of its files differs; give the right model as --dense"
        )
