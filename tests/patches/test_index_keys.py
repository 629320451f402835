"""No line of SGLang that writes index keys comes in unseen: the lists, and that they would notice."""

import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from sglang_hisa.patches import contract
from sglang_hisa.patches import known as releases
from sglang_hisa.patches.features import LINEAR_ATTENTION, MODEL_FIELDS, ROCM
from sglang_hisa.patches.releases import RELEASES
from sglang_hisa.patches.table import PATCHES
from tests.patches.index_key_lines import LISTS, Line, differences, find, installed_differences, listed, parse

HOOKED = {"stores", "moves", "addresses", "allocates", "sizes"}
"""Kinds of groups whose heading must name the hooks that follow."""
OTHERS = {
    "below a store",
    "above a store",
    "reads",
    "host",
    "imports",
    "declined",
    "no caller",
    "other pools",
}


def test_every_line_about_index_keys_is_listed():
    problems = installed_differences()
    assert not problems, "\n\n".join(problems)


def test_each_version_has_a_list():
    assert {path.stem for path in LISTS.glob("*.txt")} == set(RELEASES)


@pytest.mark.parametrize("version", RELEASES)
def test_hooks_and_features_of_the_headings_exist(version):
    places = [(patch.hook, releases.place(version, patch)) for patch in PATCHES]
    targets = {hook: set() for hook, target in places if target}
    for hook, target in places:
        if target:
            targets[hook].add(target.removeprefix("sglang."))
    served = set(releases.release(version)["arguments"])
    declined = served | {field.name for field in MODEL_FIELDS} | {LINEAR_ATTENTION, ROCM}
    for group in listed(version):
        heading = f"[{group.kind}: {group.what}]"
        assert group.kind in HOOKED | OTHERS and group.lines, heading
        hooks = re.findall(r"\b\w+:\w+", group.what)
        assert set(hooks) <= set(targets), heading
        assert bool(hooks) >= (group.kind in HOOKED), heading
        assert group.kind != "declined" or group.what in declined, heading
        functions = {f"{line.file[:-3].replace('/', '.')}.{line.function}" for line in group.lines}
        for hook in hooks if group.kind in ("stores", "moves") else ():
            assert functions & targets[hook], f"{heading}: the function that it follows is not below it"


@pytest.fixture
def tree(tmp_path):
    """Files of the installed SGLang with two writers, and what is found in them."""
    root = contract.installed_root()
    for file in ("srt/layers/attention/dsa/dsa_indexer.py", "srt/mem_cache/memory_pool.py"):
        (tmp_path / file).parent.mkdir(parents=True)
        shutil.copy(root / file, tmp_path / file)
    return tmp_path


def known(found):
    """What is listed of these files."""
    files = {line.file for line in found}
    groups = listed(contract.installed_version())
    return Counter(line for group in groups for line in group.lines if line.file in files)


WRITER = """

def squeeze(pool, pages):
    '''Move pages together: index_k_with_scale_buffer, too.'''
    # get_index_k_with_scale_buffer would do as well
    name = "index_k_with_scale_buffer"
    for layer in getattr(pool, name):
        layer[pages] = 0
"""


@pytest.mark.parametrize(
    "old,new,text",
    [
        ("", WRITER, 'name = "index_k_with_scale_buffer"'),
        ("def move_kv_cache(", "def move(", None),
        ("pool.set_index_k_scale_buffer(", "pool.set_index_k_scale_buffer(*more); pool.other(", None),
        ("class Indexer(", "def alias(cache):\n    return cache.index_key_cache\n\nclass Indexer(", None),
    ],
    ids=["added", "renamed", "changed", "above"],
)
def test_a_changed_tree_is_noticed(tree, old, new, text):
    """A new writer at the end of a file, under getattr; a renamed function; a changed line; a new way in."""
    assert find(tree) == known(find(tree)), "an unchanged tree has no difference"
    before = differences(find(tree), listed(contract.installed_version()), "LIST")
    assert len(before) == 1 and "has no more" in before[0], "of the files that were not copied"
    for path in tree.rglob("*.py"):
        source = path.read_text()
        path.write_text(source.replace(old, new) if old else source + new)
    found = find(tree)
    new_lines = found - known(found)
    assert new_lines
    (message, *_) = differences(found, listed(contract.installed_version()), "LIST")
    assert "not listed" in message and "LIST" in message and "decline it at start" in message
    for line in new_lines:
        assert line.text in message and f"{line.file} {line.function}" in message
    if text:
        assert {line.text for line in new_lines} == {text}, "neither the docstring nor the comment"
        assert {line.function for line in new_lines} == {"squeeze"}


def test_a_vanished_line_is_named(tree):
    path = tree / "srt/layers/attention/dsa/dsa_indexer.py"
    path.write_text(path.read_text().replace("pool.set_index_k_scale_buffer(", "pool.store("))
    gone = known(find(tree)) - find(tree)
    assert gone == {Line(path.relative_to(tree).as_posix(), "Indexer._store_index_k_cache",
                         "pool.set_index_k_scale_buffer("): 1}  # fmt: skip


def test_buffers_of_index_key_caches_are_found_by_their_short_name(tmp_path):
    """0.5.23 keeps them as ``buffer`` of ``IndexKeyCache`` and of what inherits from it."""
    (tmp_path / "cache.py").write_text(
        "class FastIndexKeyCache(Base):\n"
        "    def roll(self):\n"
        "        self.buffer[0] = self.buffer[1]\n"
        "class Other:\n"
        "    def roll(self):\n"
        "        self.buffer[0] = self.buffer[1]\n"
    )
    texts = {(line.function, line.text) for line in find(tmp_path)}
    assert texts == {
        ("FastIndexKeyCache", "class FastIndexKeyCache(Base):"),
        ("FastIndexKeyCache.roll", "self.buffer[0] = self.buffer[1]"),
    }


def test_lines_without_a_place_are_refused():
    with pytest.raises(ValueError, match="no group or no function above pool"):
        parse("[reads: here]\n    pool.get_index_k_continuous(")
    with pytest.raises(ValueError, match=r"\[kind: what\], not \[reads\]"):
        parse("[reads]")
    assert Path(LISTS).is_dir()
