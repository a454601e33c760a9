"""Whether a dense model is the one that a variant was made from."""

from __future__ import annotations

from seap_export.errors import InputError
from seap_export.plan.plan import Plan
from seap_export.sources.source import Source

__all__ = ["refuse_another_model"]


def refuse_another_model(source: Source, plan: Plan, variant: str) -> None:
    """Compares hashes; the model's takes a pass over its files, once.

    Args:
        source: The dense model that the user gives.
        plan: The variant's.
        variant: What the message calls it.

    Raises:
        InputError: The variant was made from another model.
    """
    if source.digest != plan.source_sha256:
        raise InputError(
            f"'{source.name}' is not the model that {variant} was made from ('{plan.source_name}'): the SHA-256 "
            "of its files differs; give the right one as --dense"
        )
