"""Links of the documentation lead somewhere, and the files it shows are those of the repository."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.product import families, refused_models

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "samples").glob("*/README.md")])


def _prose(page: Path) -> str:
    """The page without its fenced and indented code, whose brackets and `#` mean something else."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^ {4}.*$", "", text, flags=re.MULTILINE)


def _anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings."""
    headings = re.findall(r"^#+ (.+)$", _prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", _prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or anchor in _anchors(linked), target


def test_the_example_of_a_family_is_the_one_in_the_repository() -> None:
    page = (ROOT / "docs" / "contributing" / "adding-a-family.md").read_text("utf-8")
    [(path, description)] = re.findall(r"^`([\w/]+\.toml)`.*?^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    entries = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert description == (ROOT / path).read_text("utf-8")
    models = (ROOT / "tests" / "support" / "variations.py").read_text("utf-8")
    assert len(entries) == 2
    assert all(entry in models for entry in entries)


def test_the_page_of_the_families_has_a_row_for_each() -> None:
    """`tests/families_table.py` writes it, which takes too long for a test."""
    page = (ROOT / "docs" / "families.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| `(\w+ForCausalLM)` \|", page, re.MULTILINE)
    assert rows == sorted((family.model_type, family.architecture) for family in families())
    for part, model_types in refused_models().items():
        assert f"| {part} | {', '.join(f'`{own}`' for own in model_types)} |" in page
