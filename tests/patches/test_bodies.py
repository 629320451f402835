"""Functions whose inside HISA relies on: known bodies are served, others are refused with what changed."""

import ast
import json
from pathlib import Path

import pytest

from sglang_hisa.config import from_mapping
from sglang_hisa.patches import bodies, contract, known, metrics, plugin, runtime, syntax
from sglang_hisa.patches.releases import RELEASES
from tests.history.sglang_cache import importable
from tests.sglang_copies import WHEEL, copy_named

INDEXER = "srt/layers/attention/dsa/dsa_indexer.py"
PAGED = "sglang.srt.layers.attention.dsa.dsa_indexer.Indexer._get_topk_paged"
BODY = "max_seq_len = block_tables.shape[1] * page_size"
"""A statement of that function in every release."""


@pytest.fixture
def tree(tmp_path):
    return copy_named(tmp_path / "sglang", "0.5.24.dev5+gabc")


def edit(root, file, old, new):
    path = root / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def judged(root, monkeypatch, **setting):
    monkeypatch.setattr(contract, "installed_root", lambda: root)
    return contract.unfit(from_mapping(setting))


def test_known_bodies_are_served_whatever_the_name(tree, monkeypatch):
    assert judged(tree, monkeypatch) is None
    found = contract.read(tree)
    assert found.version == "0.5.24.dev5+gabc" and found.patches == contract.read(WHEEL).patches


def test_a_changed_body_is_refused_with_its_name_and_what_changed(tree, monkeypatch):
    edit(tree, INDEXER, BODY, "max_seq_len = 1")
    found = judged(tree, monkeypatch)
    (reason,) = found.reasons
    assert "differs where HISA relies on it" in found.what
    assert reason.startswith(f"{PAGED}: {INDEXER}:") and "1 new statement, at line" in reason
    assert "`max_seq_len = 1`" in reason and "1 statement removed" in reason
    assert "which page table" in reason, "what HISA relies on"
    assert "off PYTHONPATH" in found.fix and "unverified_source" in found.fix


def test_a_renamed_parameter_is_refused_with_both_lists(tree, monkeypatch):
    edit(tree, "srt/mem_cache/memory_pool.py", "tgt_loc: torch.Tensor", "targets: torch.Tensor")
    found = judged(tree, monkeypatch, unverified_source=True)
    (reason,) = [reason for reason in found.reasons if "parameters are" in reason]
    assert "DSATokenToKVPool.move_kv_cache" in reason
    assert "(self, targets, src_loc)" in reason and "expected (self, tgt_loc, src_loc)" in reason
    assert "unverified_source" not in found.fix, "the key does not cure it"


def test_a_moved_caller_is_refused_with_the_file_that_lost_it(tree, monkeypatch):
    edit(tree, "srt/disaggregation/decode.py", "new_batch.prepare_for_prebuilt()", "prebuilt(new_batch)")
    found = judged(tree, monkeypatch, unverified_source=True)
    (reason,) = found.reasons
    assert "prepare_for_prebuilt: srt/disaggregation/decode.py no longer reaches it" in reason
    assert "`new_batch.prepare_for_prebuilt()`" in reason and "unverified_source" not in found.fix


def test_layout_comments_and_docstrings_are_no_change(tree, monkeypatch):
    edit(
        tree,
        INDEXER,
        BODY,
        "# of the longest row\n        max_seq_len = (\n            block_tables.shape[1] * page_size)",
    )
    edit(tree, "srt/mem_cache/memory_pool.py", '"""Move latent KV', '"""Move the latent KV')
    assert judged(tree, monkeypatch) is None


@pytest.fixture
def activated(tree, monkeypatch):
    """The runtime after the plugin met an SGLang with an unknown body, and what it registered."""
    with importable():
        from sglang.srt.plugins.hook_registry import HookRegistry

    hooks = []
    monkeypatch.setattr(HookRegistry, "register", lambda *hook: hooks.append(hook))
    monkeypatch.setattr(HookRegistry, "apply_hooks", staticmethod(lambda: None))
    edit(tree, INDEXER, BODY, "max_seq_len = 1")
    monkeypatch.setattr(contract, "installed_root", lambda: tree)

    def start(**setting):
        plugin.activate(from_mapping(setting))
        return runtime.current(), [target.rsplit(".", 1)[1] for target, *_ in hooks]

    return start


def test_the_key_serves_an_unknown_body_with_the_canary_on_and_marks_it(activated, caplog):
    with pytest.raises(SystemExit, match="unverified_source"):
        activated()
    state, hooked = activated(unverified_source=True)
    assert state.config.canary == "sample" and "forward" in hooked, "the canary's hook"
    source = state.receipt()["source"]
    assert source["verified"] is False and source["unknown"][0].startswith(f"{PAGED}: ")
    assert activated(unverified_source=True, canary="full")[0].config.canary == "full"


def test_a_server_reads_the_source_once_and_keeps_none_of_it(activated, monkeypatch):
    parsed = []
    parse = ast.parse
    monkeypatch.setattr(syntax.ast, "parse", lambda text: parsed.append(text) or parse(text))
    contract.read.cache_clear()
    syntax.forget()
    with pytest.raises(SystemExit):
        activated()
    assert len(set(parsed)) == len(parsed) > 10, "each module once"
    activated(unverified_source=True)
    assert len(set(parsed)) == len(parsed), "a second look parses nothing"
    assert syntax.tree.cache_info().currsize == 0


def test_metrics_mark_an_unverified_source(monkeypatch):
    import prometheus_client

    labels = []

    class Metric:
        def __init__(self, name, text, labelnames=(), **more):
            self._names = labelnames

        def labels(self, *values):
            labels.append(dict(zip(self._names, values)))
            return self

        def set(self, value):
            pass

        inc = set

    monkeypatch.setattr(prometheus_client, "Gauge", Metric)
    monkeypatch.setattr(prometheus_client, "Counter", Metric)
    state = runtime.Runtime(from_mapping({}), "0.5.24.dev5", 1)
    metrics.export(state, {})
    state.unverified = ("f: changed",)
    metrics.export(state, {})
    assert [found["source_verified"] for found in labels if "source_verified" in found] == ["yes", "no"]


def test_the_file_knows_every_release_and_nothing_else():
    data = known.load()
    assert set(data["releases"]) == set(RELEASES)
    named = [name for each in data["bodies"].values() for body in each for name in body["releases"]]
    assert set(named) == set(RELEASES)
    for each in data["bodies"].values():
        releases = [name for body in each for name in body["releases"]]
        assert len(set(releases)) == len(releases), "one body of a function in a release"


@pytest.fixture
def fresh():
    """What was read with another file of bodies is forgotten before and after."""
    contract.read.cache_clear()
    yield
    contract.read.cache_clear()


def test_the_command_makes_what_the_file_says(tmp_path, monkeypatch, capsys, fresh):
    """Of the installed SGLang, from nothing; a second time changes nothing."""
    version = contract.installed_version()
    kept = known.load()
    monkeypatch.setattr(known, "FILE", tmp_path / "bodies.json")
    monkeypatch.setattr(known, "load", lambda: json.loads((tmp_path / "bodies.json").read_text()))
    (tmp_path / "bodies.json").write_text('{"bodies": {}, "releases": {}}')
    assert bodies.main(["--check", str(WHEEL)]) == 1 and "is new to HISA" in capsys.readouterr().out
    assert known.load()["bodies"] == {}
    for _ in range(2):
        assert bodies.main([str(WHEEL.parent)]) == 0
        made = known.load()
        assert made["releases"] == {version: kept["releases"][version]}
        for target, each in kept["bodies"].items():
            here = [{**body, "releases": [version]} for body in each if version in body["releases"]]
            assert made["bodies"].get(target, []) == here


def test_the_command_wants_a_package(tmp_path):
    with pytest.raises(SystemExit, match="no sglang package"):
        bodies.main([str(tmp_path)])


CODE = """
def f(a, *, b=1):
    '''Words.'''
    if a:
        return b
    for x in a:
        try:
            y = x
        except ValueError as error:
            raise error
"""


def parsed(tmp_path, text):
    path = Path(tmp_path / f"{len(list(tmp_path.iterdir()))}.py")
    path.write_text(text)
    return syntax.tree(path).body[0]


@pytest.mark.parametrize(
    "old,new,same",
    [
        ("Words.", "Other words.", True),
        ("if a:", "if (a):  # indeed", True),
        ("b=1", "b=2", False),
        ("(a, *, b", "(a, b", False),
        ("return b", "return a", False),
        ("ValueError", "KeyError", False),
        ("def f", "@cache\ndef f", False),
    ],
)
def test_the_hash_is_of_what_the_code_does(tmp_path, old, new, same):
    assert old in CODE
    before, after = parsed(tmp_path, CODE), parsed(tmp_path, CODE.replace(old, new))
    assert (syntax.body_hash(before) == syntax.body_hash(after)) is same


def test_hashes_are_the_same_in_every_python(tmp_path):
    """Written down once: fields that newer Pythons add to their syntax nodes must not count."""
    assert known.fingerprint(parsed(tmp_path, CODE)) == {
        "hash": "53e145e85766cbc1",
        "statements": "23d7e2 a82a90 9399c4 59dec6 197082 b320eb bb0f65",
    }
