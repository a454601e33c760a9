"""The JSON schema (draft 2020-12) of a report, made from its types."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NotRequired, Required, Union, get_args, get_origin, get_type_hints

from validation.reports.shape import OPEN, Check, Report

_NAMES = {str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null"}
_ANY_FAILURE = {"enum": [3, 4, 5, 6, 7]}
#: What types can not say: verdicts, exit codes and reasons belong together.
_RULES: dict[Any, list[dict[str, Any]]] = {
    Report: [
        {
            "if": {"properties": {"verdict": {"const": "passed"}}},
            "then": {
                "properties": {
                    "exit_code": {"const": 0},
                    "failure": {"const": ""},
                    "checks": {"items": {"properties": {"verdict": {"enum": ["passed", "skipped"]}}}},
                }
            },
            "else": {"properties": {"exit_code": _ANY_FAILURE, "failure": {"minLength": 1}}},
        }
    ],
    Check: [
        {
            "if": {"properties": {"verdict": {"enum": ["failed", "not judged"]}}},
            "then": {"properties": {"exit_code": _ANY_FAILURE, "reasons": {"minItems": 1}}},
            "else": {"properties": {"exit_code": {"const": 0}, "reasons": {"maxItems": 0}}},
        },
        {"if": {"properties": {"verdict": {"const": "skipped"}}}, "then": {"properties": {"notes": {"minItems": 1}}}},
    ],
}


def schema() -> dict[str, Any]:
    """The schema: strict for the report, its checks and variants, lenient for what they embed."""
    parts: dict[str, Any] = {}
    _of(Report, parts)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Report of seap-export validate",
        **parts.pop("Report"),
        "$defs": parts,
    }


def _of(kind: Any, parts: dict[str, Any]) -> dict[str, Any]:
    """The schema of a type; the objects in it are added to the parts."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        said = (("description", more) if isinstance(more, str) else more for more in inner[1:])
        return _of(inner[0], parts) | dict(said)
    if origin in (Required, NotRequired):
        return _of(inner[0], parts)
    if origin is Literal:
        return {"enum": list(inner)}
    if origin in (Union, UnionType):
        return {"anyOf": [_of(part, parts) for part in inner]}
    if origin is list:
        return {"type": "array", "items": _of(inner[0], parts)}
    if origin is tuple:
        return {"type": "array", "prefixItems": [_of(part, parts) for part in inner], "minItems": len(inner)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _of(inner[1], parts)}
    if hasattr(kind, "__required_keys__"):
        if kind.__name__ not in parts:
            parts[kind.__name__] = {}  # of a type that holds itself
            parts[kind.__name__] = _object(kind, parts)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    return {} if kind is Any else {"type": _NAMES[kind]}


def _object(kind: Any, parts: dict[str, Any]) -> dict[str, Any]:
    fields = get_type_hints(kind, include_extras=True)
    return {
        "type": "object",
        "properties": {name: _of(of, parts) for name, of in fields.items()},
        "required": sorted(kind.__required_keys__),
        "additionalProperties": kind in OPEN,
        **({"allOf": _RULES[kind]} if kind in _RULES else {}),
    }
