"""The lm-evaluation-harness: whether it is installed, and loading its tasks and their data.

Source: Gao et al., "A framework for few-shot language model evaluation",
https://github.com/EleutherAI/lm-evaluation-harness.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from seap_export.common.extras import install_remedy
from seap_export.errors import EnvironmentFailure, UsageError

#: Libraries that log retries, deprecations and the like while a task is loaded.
_LOGGERS = ("lm_eval", "datasets", "huggingface_hub")


def require_harness() -> None:
    """Fails if the lm-evaluation-harness is not installed.

    Raises:
        EnvironmentFailure: It is not installed, or cannot be imported.
    """
    try:
        import accelerate  # noqa: F401 - the harness's model class needs it
        import lm_eval  # noqa: F401
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise EnvironmentFailure(
            f"tasks of the lm-evaluation-harness need lm-eval ({reason}); {install_remedy('evaluate')}"
        ) from error


def refuse_unknown_harness_tasks(names: Sequence[str]) -> None:
    """Refuses names that the harness does not have, before anything is downloaded."""
    manager = _task_manager()
    for name in names:
        if name not in manager.all_tasks:
            raise UsageError(f"the lm-evaluation-harness has no task '{name}'; 'lm-eval ls tasks' lists them")


def load_harness_tasks(names: Sequence[str]) -> dict[str, Any]:
    """The harness's `Task` objects by name; a group gives all its tasks.

    Their data are downloaded, or taken from the cache of an earlier download.

    Raises:
        UsageError: The harness has no such task.
        EnvironmentFailure: The harness is not installed, or the data cannot be loaded.
    """
    refuse_unknown_harness_tasks(names)
    try:
        with quiet_harness():
            tasks: dict[str, Any] = _task_manager().load(list(names))["tasks"]
    except MemoryError:
        raise
    except Exception as error:  # the hub clients' own errors share no useful base class across their releases
        reason = " ".join(str(error).split()) or type(error).__name__
        raise EnvironmentFailure(
            f"the data of {', '.join(names)} cannot be loaded ({reason:.200}); connect to the network, "
            "or use local files with a task file"
        ) from error
    return tasks


def _task_manager() -> Any:
    """The harness's index of its tasks, cached because building it takes seconds."""
    require_harness()
    from lm_eval.tasks import TaskManager

    return _only(TaskManager)


@cache
def _only(kind: Any) -> Any:
    with quiet_harness():
        return kind()


@contextlib.contextmanager
def quiet_harness() -> Iterator[None]:
    """Hides the harness's progress bars, notices and warnings; anything that matters is raised as an error."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
