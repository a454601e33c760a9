"""A context manager that keeps transformers' progress bars and warnings off stderr."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keeps progress bars, load reports and deprecations off stderr; what matters is raised as an error."""
    from transformers.utils import logging as of_transformers

    verbosity, bar = of_transformers.get_verbosity(), of_transformers.is_progress_bar_enabled()
    disabled = logging.root.manager.disable
    of_transformers.set_verbosity(of_transformers.CRITICAL)
    of_transformers.disable_progress_bar()
    logging.disable(logging.WARNING)  # torchao, which transformers imports where it is installed, logs what it lacks
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.disable(disabled)
        of_transformers.set_verbosity(verbosity)
        if bar:
            of_transformers.enable_progress_bar()
