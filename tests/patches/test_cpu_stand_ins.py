"""The CPU stand-ins against loops in plain Python, and what happens when they do not fit SGLang."""

from __future__ import annotations

import importlib.util
import inspect
import os
import random
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from prometheus_client import values

from sglang_hisa.launch.common import models
from sglang_hisa.launch.common.server import ServerProcess, cpu_env, cpu_flags
from sglang_hisa.patches import contract, syntax
from sglang_hisa.patches import cpu as stand_ins
from sglang_hisa.patches.cpu import attention, indexer, leaf, mqa, processes, topk

PAGE, DIM = 64, 128
INT32_MAX = torch.iinfo(torch.int32).max


def ints(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def e4m3(code: int) -> float:
    """The value of an fp8 e4m3 code, from the format's definition."""
    sign, exponent, mantissa = -1.0 if code & 0x80 else 1.0, (code >> 3) & 15, code & 7
    if exponent == 15 and mantissa == 7:
        return float("nan")
    return sign * (mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7))


E4M3 = [(e4m3(code), code) for code in range(256) if code & 0x7F != 0x7F]


def nearest(value: float) -> float:
    """``value`` rounded to e4m3, ties to the even mantissa."""
    return min(E4M3, key=lambda pair: (abs(pair[0] - value), pair[1] & 1))[0]


@pytest.mark.parametrize("scale_fmt", [None, "ue8m0"])
@pytest.mark.parametrize("shape", [(1, 128), (3, 1, 256), (2, 5, 128)])
def test_act_quant(shape: tuple[int, ...], scale_fmt: str | None) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3
    x.view(-1, 128)[0] *= 1e-7  # below the floor of the scale
    x.view(-1, 128)[-1, 5] = 448.0 * 4  # a scale that is a power of two already
    values, scale = leaf.act_quant(x.to(torch.bfloat16), 128, scale_fmt)
    assert values.dtype == torch.float8_e4m3fn and values.shape == x.shape
    assert scale.dtype == torch.float32 and scale.shape == (*shape[:-1], shape[-1] // 128)
    groups = x.to(torch.bfloat16).float().view(-1, 128).numpy()
    for group, got, s in zip(groups, values.float().view(-1, 128).tolist(), scale.flatten().tolist()):
        expected = np.float32(max(np.abs(group).max(), np.float32(1e-4))) * np.float32(1 / 448)
        if scale_fmt:
            expected = next(2.0**e for e in range(-40, 40) if 2.0**e >= expected)
        assert s == expected
        assert got == [nearest(max(-448.0, min(448.0, float(v / np.float32(s))))) for v in group]


def test_act_quant_refuses_what_the_kernel_refuses() -> None:
    with pytest.raises(ValueError, match="contiguous"):
        leaf.act_quant(torch.zeros(128, 4).t())


def filled_pool(pages: int) -> tuple[SimpleNamespace, torch.Tensor]:
    torch.manual_seed(1)
    buffer = torch.randint(0, 0x70, (pages, PAGE * 132), dtype=torch.uint8)
    buffer[:, PAGE * DIM :] = (torch.rand(pages, PAGE) + 0.5).view(torch.uint8)
    return SimpleNamespace(page_size=PAGE, index_head_dim=DIM), buffer


def key_bytes(buffer: torch.Tensor, slot: int) -> list[int]:
    page, offset = divmod(slot, PAGE)
    return buffer[page, offset * DIM : (offset + 1) * DIM].tolist()


def scale_bytes(buffer: torch.Tensor, slot: int) -> list[int]:
    page, offset = divmod(slot, PAGE)
    return buffer[page, PAGE * DIM + 4 * offset : PAGE * DIM + 4 * (offset + 1)].tolist()


def test_set_keys_and_scales() -> None:
    pool, buffer = filled_pool(4)
    before = buffer.clone()
    slots = torch.tensor([130, 64, 255, 127, 128])
    keys = torch.randn(5, DIM).to(torch.float8_e4m3fn)
    scales = torch.rand(5)
    leaf.set_keys_and_scales(
        None, pool=pool, buf=buffer, loc=slots, index_k=keys, index_k_scale=scales[:, None]
    )
    for slot in range(4 * PAGE):
        at = (slots == slot).nonzero().flatten().tolist()
        if at:
            assert key_bytes(buffer, slot) == keys[at[0]].view(torch.uint8).tolist()
            assert scale_bytes(buffer, slot) == scales[at[0] : at[0] + 1].view(torch.uint8).tolist()
        else:
            assert key_bytes(buffer, slot) == key_bytes(before, slot)
            assert scale_bytes(buffer, slot) == scale_bytes(before, slot)


def test_get_keys_and_scales_of_ragged_requests() -> None:
    pool, buffer = filled_pool(9)
    lengths = ints(1, 64, 0, 65, 130)
    table = ints(*range(15)).view(5, 3) % 9
    table[0, 1:] = INT32_MAX  # the tail of a table row is stale
    keys, scales = leaf.get_keys_and_scales(None, pool, buffer, table, lengths, 260, 130)
    slots = [int(table[i, at // PAGE]) * PAGE + at % PAGE for i in range(5) for at in range(int(lengths[i]))]
    assert keys.tolist() == [key_bytes(buffer, slot) for slot in slots]
    assert scales.tolist() == [scale_bytes(buffer, slot) for slot in slots]


def test_positions_to_slots() -> None:
    table = ints(*(1000 + i for i in range(30))).view(3, 10)
    at = ints(0, 9, -1, 3, 3, -1, 5, -1, -1, -1, -1, -1).view(4, 3)
    expected = [[1000, 1009, -1], [1013, 1013, -1], [1025, -1, -1]]
    assert leaf.transform_decode(table, at[:3]).tolist() == expected
    # Two rows of request 0, none of request 1, one of request 2; a padded fourth row.
    got = leaf.transform_prefill(table, at, [2, 0, 1], output_num_tokens=4)
    assert got.tolist() == [[1000, 1009, -1], [1003, 1003, -1], [1025, -1, -1], [-1, -1, -1]]
    expanded = table[[0, 0, 2]]
    assert leaf.transform_prefill(expanded, at[:3], [2, 0, 1], page_table_is_expanded=True).equal(got[:3])


def test_set_mla_kv_buffer() -> None:
    buffer = torch.zeros(8, 1, 6)
    nope, rope = torch.rand(3, 1, 4), torch.rand(3, 1, 2)
    leaf.set_mla_kv_buffer(buffer, torch.tensor([7, 0, 3]), nope, rope)
    assert buffer[7, 0].tolist() == [*nope[0, 0].tolist(), *rope[0, 0].tolist()]
    assert buffer[[0, 3], 0, 4:].equal(rope[1:, 0]) and not buffer[[1, 2, 4, 5, 6]].any()


def score(q: torch.Tensor, key: torch.Tensor, scale: float, weights: torch.Tensor) -> float:
    dots = (q.double() @ key.double()).clamp_min(0)
    return float((dots * weights.double()).sum() * scale)


def same_scores(got: torch.Tensor, expected: list[list[float]]) -> None:
    torch.testing.assert_close(
        got.double(), torch.tensor(expected).double(), rtol=1e-4, atol=1e-3, equal_nan=True
    )


@pytest.mark.parametrize("clean", [False, True])
def test_flat_logits(clean: bool) -> None:
    torch.manual_seed(2)
    q, weights = torch.randn(3, 5, DIM).to(torch.float8_e4m3fn), torch.randn(3, 5)
    keys, scales = torch.randn(7, DIM).to(torch.float8_e4m3fn), torch.rand(7)
    starts, ends = ints(0, 2, 6), ints(7, 5, 6)
    hole = float("-inf") if clean else float("nan")
    expected = [
        [
            score(q[i].float(), keys[j].float(), float(scales[j]), weights[i])
            if starts[i] <= j < ends[i]
            else hole
            for j in range(7)
        ]
        for i in range(3)
    ]
    got = mqa.flat_logits(q, (keys, scales), weights, starts, ends, clean_logits=clean)
    assert got.stride(0) % 4 == 0
    same_scores(got, expected)
    shifted = mqa.flat_logits(q, (keys, scales), weights, starts, ends, clean, max_seqlen_k=9)
    windows = [expected[i][int(starts[i]) : int(ends[i])] for i in range(3)]
    same_scores(shifted, [window + [hole] * (9 - len(window)) for window in windows])


@pytest.mark.parametrize("two_dimensional", [False, True])
def test_paged_logits(two_dimensional: bool) -> None:
    _, buffer = filled_pool(5)
    q, weights = torch.randn(4, 1, 3, DIM).to(torch.float8_e4m3fn), torch.randn(4, 3)
    lengths = ints(1, 64, 130, 0)
    table = ints(4, -1, INT32_MAX, 2, -1, INT32_MAX, 3, 1, 4, -1, -1, -1).view(4, 3)
    got = mqa.paged_logits(
        q,
        buffer.view(5, PAGE, 1, 132),
        weights,
        lengths[:, None] if two_dimensional else lengths,
        table,
        mqa.schedule(lengths[:, None], PAGE, mqa.num_sms()),
        3 * PAGE,
    )
    assert got.shape == (4, 192) and got.stride(0) % 4 == 0
    for i in range(4):
        assert got[i, int(lengths[i]) :].isnan().all()
        for at in random.Random(i).sample(range(int(lengths[i])), min(9, int(lengths[i]))):
            slot = int(table[i, at // PAGE]) * PAGE + at % PAGE
            key = torch.tensor([e4m3(code) for code in key_bytes(buffer, slot)])
            scale = torch.tensor(scale_bytes(buffer, slot), dtype=torch.uint8).view(torch.float32)
            expected = score(q[i, 0].float(), key, float(scale), weights[i])
            assert float(got[i, at]) == pytest.approx(expected, rel=1e-4, abs=1e-2)


def test_paged_logits_of_several_tokens_a_row_are_those_of_each_token() -> None:
    _, buffer = filled_pool(5)
    pages = buffer.view(5, PAGE, 1, 132)
    q, weights = torch.randn(3, 2, 3, DIM).to(torch.float8_e4m3fn), torch.randn(6, 3)
    lengths = ints(1, 2, 64, 64, 65, 130).view(3, 2)
    table = ints(4, -1, INT32_MAX, 2, -1, INT32_MAX, 3, 1, 4).view(3, 3)
    got = mqa.paged_logits(q, pages, weights, lengths, table, None, 3 * PAGE)
    each = (q.view(6, 1, 3, DIM), pages, weights, lengths.flatten(), table.repeat_interleave(2, dim=0))
    alone = mqa.paged_logits(*each, None, 3 * PAGE)
    assert got.shape == (6, 192) and torch.equal(got.nan_to_num(7.5), alone.nan_to_num(7.5))
    assert (~got.isnan()).sum(dim=1).tolist() == lengths.flatten().tolist()
    with pytest.raises(NotImplementedError):
        mqa.paged_logits(q, pages, weights, lengths, table, None, 64, indices=ints(0))


def expected_positions(scores: torch.Tensor, length: int, k: int, start: int = 0) -> list[int]:
    row = scores[start : start + length].tolist()
    best = sorted(range(length), key=lambda i: (-row[i], i))[:k]
    return sorted(best) + [-1] * (k - len(best))


def tied_scores(rows: int, columns: int) -> torch.Tensor:
    torch.manual_seed(columns)
    return torch.relu(torch.randn(rows, columns)).mul(4).round()


CASES = [(8, [0, 1, 7, 8, 9, 37, 40]), (64, [40, 24, 3, 0, 1, 2, 40]), (1, [40, 39, 1, 0, 5, 6, 7])]


@pytest.mark.parametrize(("k", "lengths"), CASES)
def test_top_k_positions(k: int, lengths: list[int]) -> None:
    scores = tied_scores(7, 40)
    scores[3, :2] = float("-inf")
    for row, length in enumerate(lengths):
        scores[row, length:] = float("nan")
    got = topk.positions(scores, ints(*lengths), k)
    assert got.dtype == torch.int32 and got.shape == (7, k)
    assert got.tolist() == [expected_positions(scores[i], n, k) for i, n in enumerate(lengths)]


def test_top_k_does_not_depend_on_the_width_of_the_row() -> None:
    scores = tied_scores(3, 100)
    wide = torch.nn.functional.pad(scores, (0, 156), value=float("nan"))
    lengths = ints(100, 70, 33)
    assert topk.positions(scores, lengths, 32).equal(topk.positions(wide, lengths, 32))


@pytest.mark.parametrize("k", [4, 16])
def test_fused_top_k_paged(k: int) -> None:
    lengths, table = ints(130, 5, 0), ints(7, 3, 9, 2, -1, -1, 0, 0, 0).view(3, 3)
    scores = tied_scores(3, 192)
    out, raw = ints(*([5] * 3 * k)).view(3, k), ints(*([5] * 3 * k)).view(3, k)
    topk.paged(scores, lengths, table, out, PAGE, topk.plan(lengths), raw)
    for i in range(3):
        at = expected_positions(scores[i], int(lengths[i]), k)
        assert raw[i].tolist() == at
        assert out[i].tolist() == [-1 if p < 0 else int(table[i, p // 64]) * 64 + p % 64 for p in at]
    topk.paged(scores, lengths, None, out, PAGE, topk.plan(lengths))
    assert out.equal(raw)


def test_fused_top_k_refuses_what_the_kernel_refuses() -> None:
    lengths, out = ints(3, 3), ints(0, 0).view(2, 1)
    with pytest.raises(ValueError, match="negative"):
        topk.plan(ints(3, -1))
    with pytest.raises(ValueError, match="strides"):
        topk.paged(torch.zeros(2, 6), lengths, None, out, PAGE, topk.plan(lengths))
    with pytest.raises(ValueError, match="plan"):
        topk.paged(torch.zeros(2, 8), lengths, None, out, PAGE, topk.plan(ints(3)))


def test_fused_top_k_ragged() -> None:
    scores, starts, lengths = tied_scores(3, 50), ints(0, 7, 40), ints(7, 33, 10)
    out = torch.empty(3, 9, dtype=torch.int32)
    topk.ragged(scores, lengths, out_offsets=ints(100, 7, 0), out_indices=out, row_starts=starts)
    for i, offset in enumerate((100, 7, 0)):
        at = expected_positions(scores[i], int(lengths[i]), 9, int(starts[i]))
        assert out[i].tolist() == [-1 if p < 0 else p + offset for p in at]


def shim(name: str) -> ModuleType:
    """A shim package, without putting it in the way of others' imports."""
    path = Path(stand_ins.__file__).parent / "shims" / name / "__init__.py"
    spec = importlib.util.spec_from_file_location(f"shim_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_sgl_kernel_shim() -> None:
    kernel = shim("sgl_kernel")
    scores, lengths, starts = tied_scores(4, 40), ints(3, 9, 40, 12), ints(0, 0, 0, 20)
    at = [expected_positions(scores[i], int(lengths[i]), 6, int(starts[i])) for i in range(4)]
    assert kernel.fast_topk_v2(scores, lengths, 6, row_starts=starts).tolist() == at
    table = ints(*range(500, 620)).view(3, 40)
    got = kernel.fast_topk_transform_fused(
        score=scores,
        lengths=lengths,
        page_table_size_1=table,
        cu_seqlens_q=ints(0, 1, 1, 4),
        topk=6,
        row_starts=starts,
    )
    owners = (0, 2, 2, 2)
    assert got.tolist() == [
        [-1 if p < 0 else int(table[owners[i], p]) for p in row] for i, row in enumerate(at)
    ]
    ragged = kernel.fast_topk_transform_ragged_fused(scores, lengths, ints(0, 3, 3, 52), 6, starts)
    offsets = (0, 3, 3, 52)
    assert ragged.tolist() == [[-1 if p < 0 else p + offsets[i] for p in row] for i, row in enumerate(at)]
    with pytest.raises(NotImplementedError, match="moe_align"):
        kernel.moe_align(1)


@pytest.mark.parametrize("paged", [False, True])
def test_sparse_attention(paged: bool) -> None:
    torch.manual_seed(4)
    q, cache = torch.randn(3, 2, 12), torch.randn(128, 1, 12)
    slots = ints(5, 127, 64, -1, 0, 3, 9, 11, -1, -1, -1, -1).view(3, 4)
    lengths = ints(4, 2, 4)
    kv = cache.view(2, 64, 1, 12) if paged else cache
    got = attention.flashmla_sparse(None, q, kv, 8, slots, 0.3, lengths)
    for row, chosen in enumerate(([5, 127, 64], [0, 3], [])):
        keys = cache[chosen, 0].double()
        weights = torch.softmax(q[row].double() @ keys.t() * 0.3, dim=-1)
        torch.testing.assert_close(got[row].double(), weights @ keys[:, :8], rtol=1e-5, atol=1e-5)
    assert not got[2].any()


def test_a_sink_takes_weight_and_gives_no_value() -> None:
    """FlashMLA scales the output by ``exp(lse) / (exp(lse) + exp(attn_sink))``."""
    torch.manual_seed(6)
    q, cache, sink = torch.randn(2, 3, 12), torch.randn(64, 1, 12), torch.tensor([-9.0, 0.5, 4.0])
    slots = ints(5, 63, 7, -1, -1, -1).view(2, 3)
    got = attention.flashmla_sparse(None, q, cache, 8, slots, 0.3, attn_sink=sink)
    plain = attention.flashmla_sparse(None, q, cache, 8, slots, 0.3)
    lse = torch.logsumexp(q[0] @ cache[[5, 63, 7], 0].t() * 0.3, dim=-1)
    share = lse.exp() / (lse.exp() + sink.exp())
    torch.testing.assert_close(got[0], plain[0] * share[:, None], rtol=1e-5, atol=1e-5)
    assert not got[1].any()


def test_sparse_attention_depends_on_the_set_only() -> None:
    torch.manual_seed(5)
    q, cache = torch.randn(1, 4, 576).to(torch.bfloat16), torch.randn(512, 1, 576).to(torch.bfloat16)
    slots = torch.randperm(512)[:64].to(torch.int32)
    results = [
        attention.flashmla_sparse(None, q, cache, 512, slots[torch.randperm(64)][None], 0.04)
        for _ in range(4)
    ]
    assert all(result.equal(results[0]) for result in results)


@pytest.mark.parametrize("neox", [False, True])
def test_rope(neox: bool) -> None:
    angles = torch.rand(10, 4) * 6
    rotary = SimpleNamespace(
        cos_sin_cache=torch.cat((angles.cos(), angles.sin()), dim=-1), rotary_dim=8, is_neox_style=neox
    )
    positions, query, key = torch.tensor([9, 0, 4]), torch.randn(3, 2, 12), torch.randn(3, 12)
    got_q, got_k = attention.rope(rotary, positions, query, key)
    for row, position in enumerate(positions.tolist()):
        for got, x in ((got_q[row, 1], query[row, 1]), (got_k[row], key[row])):
            pairs = [(i, i + 4) if neox else (2 * i, 2 * i + 1) for i in range(4)]
            for i, (a, b) in enumerate(pairs):
                turn = complex(float(x[a]), float(x[b])) * complex(
                    np.cos(float(angles[position, i])), np.sin(float(angles[position, i]))
                )
                assert (float(got[a]), float(got[b])) == pytest.approx((turn.real, turn.imag), abs=1e-5)
            assert got[8:].equal(x[8:])


@pytest.mark.parametrize("shape", [(1, 2), (3, 8), (2, 5, 128)])
def test_rotate_activation(shape: tuple[int, ...]) -> None:
    size, x = shape[-1], torch.randn(shape)
    signs = [[(-1.0) ** (i & j).bit_count() for j in range(size)] for i in range(size)]
    expected = x.double() @ torch.tensor(signs).double() / size**0.5
    torch.testing.assert_close(indexer.rotate_activation(x).double(), expected, rtol=1e-5, atol=1e-5)
    assert indexer.rotate_activation(x.to(torch.bfloat16)).dtype == torch.bfloat16


def installed_rows() -> list[Any]:
    rows = stand_ins.rows_for(contract.installed_root())
    return [pytest.param(row, target, id=row.hook) for row, target in rows if target.startswith("sglang.")]


@pytest.mark.parametrize(("row", "target"), installed_rows())
def test_hook_takes_what_the_target_takes(row: stand_ins.StandIn, target: str) -> None:
    """Read from SGLang's source, without importing it. A hook may take more, with defaults."""
    where = syntax.module_file(contract.installed_root(), target.split(".")[1:])
    assert where is not None
    path, names = where
    node = syntax.find(syntax.tree(path).body, names)
    if node is None:  # 0.5.17 inherits this one
        assert names == ["Indexer", "forward_native"]
        return
    ours = dict(inspect.signature(stand_ins._hook(row)).parameters)
    if row.kind == "after":
        assert next(iter(ours)) == "result"
        return
    if row.kind == "around":
        assert next(iter(ours)) == "original"
        ours = {name: ours[name] for name in [*ours][1:]}
    theirs = syntax.parameters(node)  # type: ignore[arg-type]
    if "kwargs" in theirs:  # a forwarder tells nothing
        return
    assert tuple(ours)[: len(theirs)] == theirs
    assert all(
        p.default is not p.empty or p.kind.name.startswith("VAR") for p in [*ours.values()][len(theirs) :]
    )


def test_processes_are_forked_and_share_their_metrics(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """prometheus_client has been imported before SGLang says where metrics are shared."""
    monkeypatch.setattr(values, "ValueClass", values.MutexValue)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    asked = []
    processes.forked(lambda method, force: asked.append((method, force)), "spawn", force=True)
    processes.forked(lambda method, force: asked.append((method, force)), None)
    assert asked == [("fork", True), (None, False)]
    assert values.ValueClass is not values.MutexValue and values.ValueClass._multiprocess


def in_process(code: str) -> subprocess.CompletedProcess[str]:
    env = cpu_env(os.environ, None)
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)


BROKEN = """
import sglang_hisa.patches.cpu as cpu
row = cpu.StandIn("leaf:act_quant", ("json.no_such_function",), "")
lost = cpu.StandIn("leaf:act_quant", ("no_such_module.x",), "")
cpu.STAND_INS += (row, lost)
cpu.contract.installed_version = lambda: "0.5.23.dev7"
real = cpu.pkgutil.resolve_name
cpu.pkgutil.resolve_name = lambda name: real(name) if "no_such" in name else None
cpu.register()
"""


def test_a_missing_target_stops_the_process() -> None:
    ended = in_process(BROKEN)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert "refusing to start" in ended.stderr and "SGLang 0.5.23.dev7" in ended.stderr
    assert "json.no_such_function" in ended.stderr and "no_such_module.x" in ended.stderr
    assert ended.stderr.count("  - ") == 2


NONE = """
import sys
import sglang_hisa.patches.cpu as cpu
cpu.source.importlib.util.find_spec = lambda name: None
cpu.register()
"""


def test_no_sglang_stops_the_process() -> None:
    ended = in_process(NONE)
    assert ended.returncode == 1 and "SGLang is not installed" in ended.stderr
    assert "\nFix: pip install sglang==" in ended.stderr


def test_nothing_happens_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SGLANG_HISA_CPU", raising=False)
    monkeypatch.setattr(stand_ins, "rows_for", lambda root: pytest.fail("looked at SGLang"))
    stand_ins.register()


REFUSED = """
from sglang.srt import plugins
from sglang.srt.plugins.hook_registry import HookRegistry
from sglang_hisa.patches.cpu import register
plugins.load_plugins_by_group = lambda *args, **kwargs: {"hisa_cpu": (register, None)}
apply = HookRegistry._apply_target
def fail_one(target, hooks):
    if target.endswith("rotate_activation"):
        raise RuntimeError("cannot patch")
    return apply(target, hooks)
HookRegistry._apply_target = staticmethod(fail_one)
plugins.load_plugins()
print("went on")
"""


def test_a_hook_that_sglang_fails_to_apply_stops_the_process() -> None:
    ended = in_process(REFUSED)
    assert ended.returncode == 1 and "went on" not in ended.stdout
    assert "could not apply the hook" in ended.stderr and ended.stderr.count("  - ") == 1


@pytest.mark.server
def test_real_server_fused_and_unfused_agree(tmp_path: Path) -> None:
    """Stock DSA; prompts below and above index_topk, fresh and from the radix cache."""
    model = models.make_tiny(tmp_path / "model")
    draw = random.Random(0)
    prompts = [[draw.randrange(3, 250) for _ in range(length)] for length in (40, 65, 333, 600)]
    outputs = []
    for fused in (False, True):
        env = cpu_env(os.environ, None, fused=fused)
        with ServerProcess(cpu_flags(model), env=env, log=tmp_path / f"server-{fused}.log") as server:
            server.wait_ready(180)
            assert server.receipts() == [None]
            for prompt in prompts:
                fresh, cached = server.generate(prompt, 8), server.generate(prompt, 8)
                assert fresh["output_ids"] == cached["output_ids"]
                assert cached["meta_info"]["cached_tokens"] == (len(prompt) - 1) // PAGE * PAGE
                outputs.append(fresh["output_ids"])
    assert outputs[:4] == outputs[4:]
