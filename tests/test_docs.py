"""What the pages name and quote is there."""

import ast
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from caching_config import Settings

ROOT = Path(__file__).parents[1]
PAGES = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    *(f"docs/{page.name}" for page in ROOT.glob("docs/*.md")),
]
CODE = ["LatentRevisions", "StyleCLIP", "mead"]

OTHER_VARIABLES = {
    "NO_PROXY",
    "HTTPS_PROXY",
    "REQUESTS_CA_BUNDLE",
    "XDG_DATA_HOME",
    "REDISCLI_AUTH",
    "AWS_ENDPOINT_URL",
    "SSL_CERT_FILE",
    "GOMP_SPINCOUNT",
    "NUMBA_CACHE_DIR",
}


def missing_from_the_code(quotes: Iterable[str]) -> set[str]:
    """What no literal text of the code holds of these messages; `...` in one stands for anything."""
    files = [*ROOT.glob("*.py"), *(file for folder in CODE for file in (ROOT / folder).rglob("*.py"))]
    nodes = (node for file in files for node in ast.walk(ast.parse(file.read_text("utf-8"))))
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    parts = {part.strip() for quote in quotes for part in quote.split("...")}
    return {part for part in parts if not any(part in text for text in texts)}


@pytest.mark.parametrize("page", PAGES)
def test_every_page_that_is_linked_to_is_there(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    links: list[str] = re.findall(r"\]\(([^)#:]+)\)", text)
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/reliability.md"]
)
def test_every_file_that_a_page_names_is_there(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    folders = "LatentRevisions|StyleCLIP|mead|tests|training|benchmarks|docs|weights"
    named = re.findall(rf"`((?:{folders})/[\w./]*)`", text)
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", ["README.md", "docs/operating.md", "docs/reliability.md"])
def test_every_setting_that_a_page_names_is_there(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    named = set(re.findall(r"`([A-Z]{2,}(?:_[A-Z]+)+)(?:=[^`]*)?`", text))
    assert named - {name.upper() for name in Settings.model_fields} - OTHER_VARIABLES == set()


def test_the_limits_that_the_page_on_reliability_gives_are_the_defaults() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text("utf-8")
    limits = dict(re.findall(r"`([A-Z_]+)=(\d+)`", text.partition("\n## Measurements\n")[0]))
    assert len(limits) > 10
    assert limits == {name: str(Settings.model_fields[name.lower()].default) for name in limits}


def test_every_message_that_the_readme_quotes_is_the_codes() -> None:
    section = (ROOT / "README.md").read_text("utf-8").partition("\n## When something goes wrong\n")[2]
    cells = [line.split(" | ")[0] for line in section.partition("\n## ")[0].splitlines() if line[:1] == "|"]
    quotes = re.findall(r"`([^`]+)`", "\n".join(cells))
    assert len(quotes) > 5
    assert missing_from_the_code(quotes) == set()
