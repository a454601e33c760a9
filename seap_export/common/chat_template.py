"""Renders chat templates of strangers, in a process of its own with limits of time and memory.

They run in jinja2's sandbox, where nothing but their inputs is in reach; a process that takes too much is ended, and
the next rendering starts another one. Linux limits time and memory, macOS the time of the processor; on Windows, only
the seconds on the clock are limited.
"""

from __future__ import annotations

import atexit
import base64
import json
import os
import pickle
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from seap_export.common.child_process import ChildEnded, ChildProcess, answer_requests
from seap_export.errors import EnvironmentFailure, InputError

#: Of the processor for one rendering; models' own templates take milliseconds.
_SECONDS = 5
#: On the clock, for a rendering or the start of the process on a busy machine.
_SECONDS_ON_THE_CLOCK = 60.0
_MEMORY = 2**30
#: Characters of a rendered text, and how often it may repeat its inputs.
_LONGEST, _REPEATS = 10_000_000, 100
_LOCK = threading.Lock()
#: The process of each process that renders, by its number: a fork starts its own.
_children: dict[int, ChildProcess] = {}


class TemplateWorkError(InputError):
    """A chat template computes more than any conversation needs."""


class CallArguments(dict[str, Any]):
    """The arguments of a call, which some templates take for an object, and some for its JSON as a text."""

    def __init__(self, value: Mapping[str, Any], text: str) -> None:
        super().__init__(value)
        self._text = text

    def __str__(self) -> str:
        return self._text

    def __add__(self, other: str) -> str:
        return self._text + other

    def __radd__(self, other: str) -> str:
        return other + self._text


def render(source: str, date: datetime | None, values: dict[str, Any]) -> str:
    """The text that a template makes of values.

    Raises:
        TemplateWorkError: It takes too much time or memory.
        InputError: It refuses them, or is damaged.
        EnvironmentFailure: No process can be started.
    """
    try:
        call = base64.b64encode(pickle.dumps((source, date, values))).decode()
    except Exception as error:  # such as values that are nested too deeply
        raise _refused(str(error)) from error
    with _LOCK:
        child = _children.get(os.getpid()) or _started()
        try:
            answer = child.ask(_SECONDS_ON_THE_CLOCK, call=call, seconds=_SECONDS)
        except BaseException as error:
            del _children[os.getpid()]
            child.close()
            if not isinstance(error, ChildEnded):
                raise
            raise TemplateWorkError(
                "the model's chat template computes more than a conversation needs, and may be malicious; use another "
                "template, or none"
            ) from error
    if "text" not in answer:
        raise _refused(answer["reason"])
    return str(answer["text"])


def _refused(reason: str) -> InputError:
    reason = " ".join(reason.split())
    return InputError(
        f"the model's chat template refuses the messages ({reason}); correct the messages or the template"
    )


def _started() -> ChildProcess:
    try:
        child = ChildProcess.of_module(__name__)
        child.ask(_SECONDS_ON_THE_CLOCK)
    except (OSError, ChildEnded) as error:
        raise EnvironmentFailure(
            f"no process can be started for chat templates ({error}); free memory or processes, or repair Python"
        ) from error
    _children[os.getpid()] = child
    return child


@atexit.register
def _close() -> None:
    if (child := _children.pop(os.getpid(), None)) is not None:
        child.close()


class _Generation(Extension):
    """`{% generation %}`, by which some templates mark the assistant's part; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@lru_cache(maxsize=8)
def _compiled(source: str, date: datetime | None) -> Template:
    """A template, where it can reach nothing but its inputs. Settings and names are transformers'."""

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    extensions = [_Generation, "jinja2.ext.loopcontrols"]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: (date or datetime.now()).strftime(form)
    del environment.globals["lipsum"]  # is random
    return environment.from_string(source)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The filter `tojson` as transformers has it."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _answer(call: str = "", seconds: int = 0) -> dict[str, str]:
    """The text of a rendering, or the reason why there is none; {} if nothing is to be rendered."""
    if not call:
        return {}
    with suppress(ImportError, ValueError, OSError):
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_CPU)  # at the lower limit, the kernel ends the process
        resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 1 + seconds, most))
    source, date, values = pickle.loads(base64.b64decode(call))
    try:
        text = _compiled(source, date).render(**values)
    except MemoryError:
        raise
    except Exception as error:  # a template may fail as any program does
        return {"reason": str(error)}
    if len(text) > _LONGEST + _REPEATS * len(call):
        raise MemoryError
    return {"text": text}


def _main() -> None:
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    answer_requests(_answer)


if __name__ == "__main__":
    _main()
