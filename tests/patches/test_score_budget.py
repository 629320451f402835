"""SGLang's rule for scores in pieces: against its own functions, and by hand."""

from __future__ import annotations

import ast
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_hisa.patches import contract, score_budget
from sglang_hisa.patches.score_budget import ScoreBudget

H200 = 143771 << 20
"""Bytes, by nvidia-smi."""


def test_a_long_chunk_on_an_h200_at_095_by_hand() -> None:
    rule = ScoreBudget()
    # 143771 MiB are 150,754,820,096 bytes; a twentieth is 7,537,741,004, and a fifth of that may be taken.
    allowed = rule.allowed(H200, 0.95)
    assert abs(allowed - 1_507_548_200) <= 2
    assert rule.needed(8192, 131072) == 4_294_967_296
    # A row is 524,288 bytes, so 2875 rows fit: 2875 + 2875 + 2442.
    assert rule.pieces(8192, 131072, allowed) == 3
    # 8 GiB less 1.5 are free: a fifth is 1,395,864,371, which is 2662 rows, 2662 * 3 + 206.
    assert rule.allowed(H200, 0.95, 13 << 29) == 1_395_864_371
    assert rule.pieces(8192, 131072, 1_395_864_371) == 4
    assert rule.allowed(H200, 0.95, H200) == allowed, "much free memory allows no more than the fraction"


def test_edges_of_the_rule() -> None:
    rule = ScoreBudget()
    assert rule.allowed(1000, None) == 300 and rule.allowed(1000, 0.0) == 200
    assert rule.allowed(1000, 1.0) == rule.allowed(1000, 1.5) == rule.allowed(1000, 0.5, 0) == 1
    assert rule.pieces(3000, 3001, 3000 * 3001 * 4) == 1 and rule.pieces(3000, 3001, 3000 * 3001 * 4 - 1) == 2
    assert rule.pieces(2000, 3999, 1) == 1, "few scores are never cut"
    assert rule.pieces(2000, 4000, 1) == 2000, "one row at a time at the least"


def test_the_default_fraction_leaves_what_sglang_sets_aside() -> None:
    # 512 MiB, 1.5 for each of 8192 tokens and 128 for the rank: 12,928 of 143,771.
    assert score_budget.default_fraction(H200, 8192, 1) == 0.910
    assert score_budget.default_fraction(H200, 2048, 1) == 0.929, "10 GiB at the least"
    assert score_budget.default_fraction(24564 << 20, 100, 2) == 0.844, "but not on a small GPU"


def test_the_constants_are_those_of_the_installed_source() -> None:
    assert score_budget.read({}) == ScoreBudget()
    name = "SGLANG_DSA_MQA_LOGITS_FREE_MEM_FRACTION"
    assert score_budget.read({name: "0.05"}) == ScoreBudget(free_share=0.05)
    assert score_budget.read({name: "much"}) == ScoreBudget()


def test_other_constants_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "installed_root", lambda: tmp_path)
    assert score_budget.read({}) == ScoreBudget(), "those of the known releases where the source tells none"
    indexer = tmp_path / "srt/layers/attention/dsa/dsa_indexer.py"
    indexer.parent.mkdir(parents=True)
    indexer.write_text(
        "class Indexer:\n    _MQA_LOGITS_BYTES_PER_ELEM = 2\n    _MQA_LOGITS_STATIC_SKIP_ELEMS = 9_000\n"
        "    _MQA_LOGITS_TOTAL_MEM_FRACTION = 0.4\n"
    )
    (tmp_path / "srt/environ.py").write_text(
        "class Envs:\n    SGLANG_DSA_MQA_LOGITS_FREE_MEM_FRACTION = EnvFloat(0.25)\n"
    )
    assert score_budget.read({}) == ScoreBudget(2, 9000, 0.4, 0.25)


def sglangs(root: Path, total: int, fraction: float | None, free: int) -> int:
    """What the code in ``root`` itself answers, run with stand-ins for the GPU and the server's arguments."""
    device = SimpleNamespace(
        get_device_properties=lambda index: SimpleNamespace(total_memory=total),
        mem_get_info=lambda index: (free, total),
    )
    space: dict[str, Any] = {
        "torch": SimpleNamespace(cuda=device),
        "get_device_module": lambda: device,
        "get_schedule": lambda: SimpleNamespace(mem_fraction_static=fraction),
        "get_is_capture_mode": lambda: False,
        "envs": SimpleNamespace(SGLANG_DSA_MQA_LOGITS_FREE_MEM_FRACTION=SimpleNamespace(get=lambda: 0.2)),
        **{name: lambda: False for name in ("is_hip", "is_xpu")},
        **{name: False for name in ("_is_hip", "_is_xpu")},
    }
    folder = root / "srt/layers/attention"
    if (shared := folder / "mqa_logits_utils.py").is_file():
        body = [node for node in ast.parse(shared.read_text()).body if not imported(node)]
        exec(compile(ast.Module(body, []), str(shared), "exec"), space)
        return int(space["mqa_logits_budget_bytes"](device_index=0, allow_sync=True))
    indexer = folder / "dsa/dsa_indexer.py"
    (found,) = (
        node for node in ast.parse(indexer.read_text()).body if getattr(node, "name", "") == "Indexer"
    )
    assert isinstance(found, ast.ClassDef)
    mine = [
        node for node in found.body if "mqa_logits" in ast.unparse(node).split("=")[0].split("(")[0].lower()
    ]
    found.body, found.bases, found.decorator_list = mine, [], []
    space |= {"Dict": dict, "Tuple": tuple}
    exec(compile(ast.Module([found], []), str(indexer), "exec"), space)
    return int(space["Indexer"]()._get_mqa_logits_budget_bytes(0))


def imported(node: ast.stmt) -> bool:
    """Whether it imports what has a stand-in."""
    foreign = ("sglang", "torch")
    return isinstance(node, ast.Import | ast.ImportFrom) and any(
        name in ast.unparse(node) for name in foreign
    )


@pytest.mark.parametrize("fraction", [None, 0.95, 0.5, 0.0, 1.5])
@pytest.mark.parametrize("free", [0, 12345678901, H200])
def test_the_budget_is_that_of_the_installed_sglang(fraction: float | None, free: int) -> None:
    here = score_budget.read({}).allowed(H200, fraction, free)
    assert here == sglangs(contract.installed_root(), H200, fraction, free)
