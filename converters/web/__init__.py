"""Writes models for transformers.js, which runs them in browsers and in Node."""

from converters.web.format import WebFormat

__all__ = ["WebFormat"]
