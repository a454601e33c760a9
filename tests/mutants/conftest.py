"""Which tests there are, before some are left out."""

from __future__ import annotations

import pytest

_COLLECTED = pytest.StashKey[frozenset[str]]()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    config.stash[_COLLECTED] = frozenset(item.nodeid for item in items)


@pytest.fixture
def collected(request: pytest.FixtureRequest) -> frozenset[str]:
    """The names of all tests in the files that this run reads."""
    if any("::" in argument for argument in request.config.args):
        pytest.skip("of some files, this run reads single tests only")
    return request.config.stash[_COLLECTED]
