"""The key of a task's calibration."""

from __future__ import annotations

from support.product import CalibrationSettings, CalibrationStep

from seap_export.corpus import Sample, Split


def key(held_out: Sample) -> str:
    split = Split((Sample("calibrated", ""),), (held_out,))
    return CalibrationStep("a", split, CalibrationSettings(), "model", 2, checks=False).key


def test_a_text_that_is_given_as_a_conversation_is_recorded_anew() -> None:
    """Its question is in the record, although the text is the same."""
    as_text = Sample("<user>Why?", "So.")
    assert key(as_text) == key(Sample("<user>Why?", "So.", question="<user>Why?"))
    assert key(as_text) != key(Sample("<user>Why?", "So.", question="Why?"))
