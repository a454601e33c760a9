"""The sandbox of chat templates: nothing but their inputs is in reach, and the work of a rendering is limited.

The limit is counted, not timed, so that a rendering fails on every machine or on none. What a template does is paid
for before it is done: each turn of a loop and each call costs a step, and each value what `costs` says.
"""

from __future__ import annotations

import functools
import json
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jinja2 import nodes, pass_context
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import BlockReference, Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from seap_export.runtime.limits import costs
from seap_export.runtime.limits.budget import CURRENT, STEP, counted, flat_weight, spend, weight

#: Characters of a template; compiling takes up to their square. The longest of a known model has 40,000.
MAX_TEMPLATE = 1 << 17
# Filters that templates cannot name, for the nodes that are put between theirs.
_STEP, _WEIGH, _WEIGH_FLAT, _COMPARE = " step", " weigh", " weigh flat", " compare"
#: Arguments that jinja2 adds to calls and takes from them again: what was set in the loop and the block around.
_SCOPES = ("_loop_vars", "_block_vars")


class _Generation(Extension):
    """`{% generation %}`, by which some templates mark the assistant's part; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _PlainNamespace(Namespace):
    """`namespace()`, which is not written with all that it holds."""

    def __repr__(self) -> str:
        return "<Namespace>"


class LimitedEnvironment(ImmutableSandboxedEnvironment):
    """jinja2's sandbox, in which work is paid for from the budget that is `CURRENT`."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, "jinja2.ext.loopcontrols"],
            finalize=_finalize,
            optimized=False,  # which would compute constants before there is a budget
        )
        self.filters = {
            name: _paid(costs.called, name, function) for name, function in dict[str, Any](self.filters).items()
        }
        self.tests = {
            name: _paid(costs.tested, name, function) for name, function in dict[str, Any](self.tests).items()
        }
        self.filters |= {"tojson": _to_json, **_PAYING}
        self.globals["namespace"] = _PlainNamespace
        del self.globals["lipsum"]

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Pays for an operator before it computes."""
        spend(STEP + costs.binary(operator, left, right))
        return super().call_binop(context, operator, left, right)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Pays for the hash of what is looked for, and for its text in a message."""
        if not isinstance(argument, str | int):
            weight(argument, CURRENT.get())
        return super().getitem(obj, argument)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Pays for a call; macros pay for what they do."""
        values = [*args, *(value for name, value in kwargs.items() if name not in _SCOPES)]
        # what jinja2 puts around a text's `format` has the method's name, and the method under __wrapped__
        method = getattr(__obj, "__wrapped__", __obj)
        owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
        spend(STEP)
        if isinstance(__obj, Macro | BlockReference | LoopContext):
            pass
        elif isinstance(owner, str | bytes | int | float | list | tuple | dict | range):
            if name == "join" and values and isinstance(values[0], Iterator):
                args = values = [list(values[0]), *values[1:]]  # type: ignore[assignment]
            spend(costs.called(name, [owner, *values]))
        else:
            weight(values, CURRENT.get())
        return _paid_for(super().call(__context, __obj, *args, **kwargs))

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        metered = _Metered().visit(source).set_environment(self)
        return super()._generate(metered, *args, **kwargs)


class _Metered(NodeTransformer):
    """Puts paying nodes between the nodes of a template: jinja2 has no hook in loops, texts and comparisons."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_step_of(1)))
        if node.test is not None:
            node.test = nodes.Or(_step_of(1), node.test)
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Output:  # noqa: N802
        self.generic_visit(node)
        length = sum(len(part.data) for part in node.nodes if isinstance(part, nodes.TemplateData))
        node.nodes.insert(0, _step_of(length))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Concat:  # noqa: N802
        self.generic_visit(node)
        node.nodes = [_filtered(part, _WEIGH) for part in node.nodes]
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        return _filtered(node, _WEIGH_FLAT) if isinstance(node.arg, nodes.Slice) else node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Pair:  # noqa: N802
        self.generic_visit(node)
        node.key = _filtered(node.key, _WEIGH)
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Filter:  # noqa: N802
        self.generic_visit(node)
        return _filtered(node.expr, _COMPARE, *(part for one in node.ops for part in (nodes.Const(one.op), one.expr)))


def _filtered(node: nodes.Expr, name: str, *args: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, list(args), [], None, None)


def _step_of(units: int) -> nodes.Filter:
    """An expression that pays for a step; it is the empty text."""
    return _filtered(nodes.Const(units), _STEP)


@pass_context
def _finalize(context: Context, value: Any) -> Any:
    """Pays for a value that is written."""
    weight(value, CURRENT.get())
    return value


@pass_context
def _step(context: Context, units: int) -> str:
    spend(STEP + units)
    return ""


@pass_context
def _weigh_flat(context: Context, value: Any) -> Any:
    spend(flat_weight(value))
    return value


@pass_context
def _compare(context: Context, left: Any, *pairs: Any) -> Any:
    """`left == right`, or a chain of comparisons: an operator's name and a value, and so on."""
    result: Any = True
    for name, right in zip(pairs[::2], pairs[1::2], strict=True):
        spend(STEP + costs.compared(left, right))
        result = _OPERATORS[name](left, right)
        if not result:
            return result
        left = right
    return result


_PAYING: dict[str, Callable[..., Any]] = {
    _STEP: _step, _WEIGH: _finalize, _WEIGH_FLAT: _weigh_flat, _COMPARE: _compare,
}  # fmt: skip
_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "lteq": operator.le, "gt": operator.gt,
    "gteq": operator.ge, "in": lambda left, right: left in right, "notin": lambda left, right: left not in right,
}  # fmt: skip


def _paid(cost: Callable[[str, Sequence[Any]], int], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter or test that is paid for before it runs."""
    hidden = int(hasattr(function, "jinja_pass_arg"))  # its first argument is the context or the environment

    @functools.wraps(function)
    def paid(*args: Any, **kwargs: Any) -> Any:
        if name == "join" and isinstance(args[hidden], Iterator):
            args = (*args[:hidden], list(args[hidden]), *args[hidden + 1 :])
        spend(STEP + cost(name, [*args[hidden:], *kwargs.values()]))
        return _paid_for(function(*args, **kwargs))

    return paid


def _paid_for(value: Any) -> Any:
    """The result of a call; items that are still to be made are paid for one by one, others were already."""
    return counted(value) if isinstance(value, Iterator) else value


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The filter `tojson` as transformers has it."""
    weight(value, CURRENT.get())
    spend(int(indent or 0) ** 2)
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    pieces = []
    for piece in encoder.iterencode(value):  # which depth, indent and separators make longer than the value
        spend(len(piece))
        pieces.append(piece)
    return "".join(pieces)
