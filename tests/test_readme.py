"""README's tables are made from launch/results, and its links lead somewhere."""

import re
from pathlib import Path

from sglang_hisa.config import PRESETS
from sglang_hisa.launch import supported, tables

README = tables.ROOT / "README.md"


def test_tables_are_those_of_the_records():
    text = README.read_text()
    assert set(re.findall(r"<!-- table:(\w+) -->", text)) == set(tables.TABLES)
    assert tables.render(text) == text, "run python -m sglang_hisa.launch.tables"


def test_a_changed_figure_is_noticed():
    text = README.read_text()
    changed = re.sub(r"\| 128K \| (\d)", r"| 128K | 9\1", text)
    assert changed != text and tables.render(changed) == text


def test_links_and_presets():
    text = README.read_text()
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (tables.ROOT / link).exists(), link
    for name in PRESETS:
        assert f"`{name}`" in text
    assert Path(tables.__file__).parent.name == "launch"


def test_supported_page_is_that_of_the_tables():
    assert supported.main(["--check"]) == 0, "run python -m sglang_hisa.launch.supported"
