"""What the pages for contributors name is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_every_file_that_a_page_names_is_there(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    named = re.findall(r"`((?:LatentRevisions|StyleCLIP|mead|tests|training|benchmarks|docs)/[\w./]*)`", text)
    linked: list[str] = re.findall(r"\]\(([^)#:]+)\)", text)
    assert len(named) > 10 and linked
    wrong = [name for name in named if not (ROOT / name).exists()]
    assert wrong + [target for target in linked if not (ROOT / page).parent.joinpath(target).exists()] == []
