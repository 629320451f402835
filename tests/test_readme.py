"""Tables of the pages are made from launch/results, and their links lead somewhere."""

import re
from pathlib import Path

from sglang_hisa.config import PRESETS
from sglang_hisa.launch import supported, tables

README = tables.ROOT / "README.md"


def test_tables_are_those_of_the_records():
    found = []
    for page in tables.PAGES:
        text = (tables.ROOT / page).read_text()
        found += re.findall(r"<!-- table:(\w+) -->", text)
        assert tables.render(text, page) == text, "run python -m sglang_hisa.launch.tables"
    assert sorted(found) == sorted(tables.TABLES)


def test_a_changed_figure_is_noticed():
    text = README.read_text()
    changed = re.sub(r"\| 128K \| (\d)", r"| 128K | 9\1", text)
    assert changed != text and tables.render(changed) == text


def test_links_and_presets():
    for page in (README, *(tables.ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page}: {link}"
    text = README.read_text()
    for name in PRESETS:
        assert f"`{name}`" in text
    assert Path(tables.__file__).parent.name == "launch"


def test_supported_page_is_that_of_the_tables():
    assert supported.main(["--check"]) == 0, "run python -m sglang_hisa.launch.supported"
