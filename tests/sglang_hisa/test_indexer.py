"""Indexer paths over rows, with plain-PyTorch stock kernels, against brute force."""

import dataclasses
import math

import pytest
import torch

from sglang_hisa import PAGE, kernels
from sglang_hisa import plan as planning
from sglang_hisa.audit import Audit, kept, summarise
from sglang_hisa.budget import KEEP_ALL, Rule
from sglang_hisa.config import from_mapping
from sglang_hisa.indexer import Output, Queries, select
from sglang_hisa.kernels.tuning import DEFAULT
from sglang_hisa.patches.cpu import mqa, topk
from sglang_hisa.plan import (
    Rows,
    Setup,
    _RowPart,
    _spans,
    make_decode_plan,
    make_prefill_plan,
    refine_kernel,
    routed_kernel,
)
from sglang_hisa.schedule import Device
from sglang_hisa.segments import Segment, of_request
from sglang_hisa.summaries import LayerSummaries, PageSummaries
from tests.kernels.conftest import make_case

TOPK = 48
CPU = Device(132, None)
BLACKWELL = Device(9, (10, 0))
"""With few multiprocessors, so that a few rows are several calls."""


class CpuKernels:
    """The stock kernels of the CPU stand-ins; ``table_topk`` as asked."""

    index_topk, init_tokens, local_tokens = TOPK, 0, 0

    def __init__(self, table_topk, device=CPU):
        self.table_topk, self.device = table_topk, device
        self.asked = []

    def schedule(self, lengths_2d):
        return lengths_2d.tolist()

    def paged_logits(self, q, index_k, weights, lengths_2d, table, schedule, max_length):
        if not self.device.hopper:
            assert schedule == lengths_2d.tolist(), "the split is of these rows"
        self.asked.append(tuple(lengths_2d.shape))
        pages = index_k.view(index_k.shape[0], PAGE, 1, -1)
        grouped = q.unflatten(0, lengths_2d.shape)
        return mqa.paged_logits(grouped, pages, weights, lengths_2d, table, None, max_length)

    def boost(self, logits, lengths):
        return None

    def topk_plan(self, lengths):
        return topk.plan(lengths)

    def topk_slots(self, logits, lengths, table, plan):
        out = torch.full((logits.shape[0], TOPK), -7, dtype=torch.int32)
        topk.paged(logits, lengths, table, out, PAGE, plan)
        return out

    def topk_positions(self, logits, lengths):
        return topk.positions(logits, lengths, TOPK)


def queries_of(case):
    return Queries(case.q, case.weights, LayerSummaries(case.index_k, case.keys, case.scales))


def brute_force(case, row, table_row, keep, block, together=None, window=PAGE + 7, heads=None):
    """The row's chosen positions: best blocks by reference scores, then best tokens inside.

    ``together``: the row that it chooses its blocks with, itself if it stands alone among rows that do; or
    all rows of its group, its longest last.
    ``window``: tokens before its end that are always candidates, wider by the others of a group.
    ``heads``: how many score tokens, those of the row's largest weights; None: all.
    """
    length = int(case.lengths[row])
    if not length:
        return set()
    keys = kernels.layout.dequantised_pages(case.index_k, case.table[table_row, : -(-length // PAGE)])
    last = (length - 1) // block
    chosen = set(range(last + 1))
    if keep <= last:
        summary = case.keys.float() * case.scales[:, None]
        pages = case.table[table_row, : last * block // PAGE].long()
        mean = summary[pages].view(last, block // PAGE, -1).mean(dim=1)
        if together is None:
            together = [row]
        group = [row, together] if isinstance(together, int) else together
        score = sum((torch.relu(mean @ case.q[r].float().T) * case.weights[r]).sum(dim=1) for r in group)
        score[0] = float("inf")
        longer = max(length, int(case.lengths[group[-1]]))
        score[max(longer - window, 0) // block :] = float("inf")
        chosen = set(score.topk(keep - 1).indices.tolist()) | {last}
    best = case.weights[row].abs().topk(heads or case.q.shape[1]).indices
    q, weights = case.q[row].float()[best], case.weights[row][best]
    score = (torch.relu(keys.flatten(0, 1)[:length] @ q.T) * weights).sum(dim=1)
    inside = torch.tensor([t // block in chosen for t in range(length)])
    score[~inside] = float("-inf")
    return set(score.topk(min(TOPK, int(inside.sum()))).indices.tolist())


@pytest.mark.parametrize("few", [0, 16])
def test_few_decode_rows_are_refined_by_our_own_kernel(monkeypatch, few):
    monkeypatch.setattr(planning, "for_device", lambda device: dataclasses.replace(DEFAULT, refine_rows=few))
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    for heads in (32, 64):
        assert refine_kernel("auto", gpu, heads) == "deepgemm", "prefill"
        ours = [rows for rows in (1, 16, 17, 128) if refine_kernel("auto", gpu, heads, rows) == "triton"]
        assert ours == ([1, 16] if few else [])
    assert refine_kernel("auto", gpu, 16) == refine_kernel("auto", cpu, 64, 128) == "triton"
    for asked in ("deepgemm", "triton"):
        assert {refine_kernel(asked, gpu, 64, rows) for rows in (None, 1, 128)} == {asked}


LENGTHS = [1, 0, 65, 64 * 9, 64 * 14 + 3, 64 * 20 - 1, 64 * 11]


@pytest.mark.parametrize("refine", ["triton", "deepgemm"])
@pytest.mark.parametrize("table_topk", [True, False])
@pytest.mark.parametrize("block", [64, 128])
def test_decode_rows(block, table_topk, refine):
    case = make_case(torch.device("cpu"), LENGTHS, heads=16, seed=block)
    config = from_mapping({"block": block, "refine": refine})
    rule = Rule(5, 0, block)
    longest = max(LENGTHS)
    rows = Rows(case.lengths, case.table, None, longest, rule.blocks, rule.share, rule.width(longest))
    setup = Setup(config, CpuKernels(table_topk), "torch")
    plan = make_decode_plan(rows, setup, refine, seals=False)
    for output in (Output(physical=True), Output(physical=False)):
        got = select(queries_of(case), plan, setup, output)
        for row in range(len(LENGTHS)):
            want = brute_force(case, row, row, rule.count(LENGTHS[row]), block)
            if output.physical:
                want = {int(case.table[row, p // PAGE]) * PAGE + p % PAGE for p in want}
            assert set(got[row][got[row] >= 0].tolist()) == want
            assert (got[row] >= 0).sum() == len(want)


@pytest.mark.parametrize("workspace_mb", [0, 1], ids=["chunks of 32 rows", "one chunk"])
def test_prefill_rows_of_two_requests(workspace_mb):
    """Rows of a longer and a shorter request, a budget each, RAGGED offsets, an output filled in place."""
    ends = list(range(64 * 15 - 40, 64 * 15 + 1)) + list(range(64 * 6 - 30, 64 * 6 + 5))
    owner = [0] * 41 + [2] * 35
    case = make_case(torch.device("cpu"), ends, heads=16, mapped=True, seed=2)
    owner_t = torch.tensor(owner, dtype=torch.int32)
    # Below what a user may ask for, so that a small step comes in several chunks.
    config = dataclasses.replace(from_mapping({}), workspace_mb=workspace_mb)
    blocks = torch.tensor([4 if o == 0 else KEEP_ALL for o in owner], dtype=torch.int32)
    share = torch.zeros_like(blocks)
    contexts = [max(ends), 0, 64 * 6 + 4]
    rows = Rows(case.lengths, case.table, owner_t, max(ends), blocks, share, 7)
    setup = Setup(config, CpuKernels(True), "torch")
    plan = make_prefill_plan(rows, contexts, setup, "triton")
    assert len(plan.chunks) == (3 if workspace_mb == 0 else 1)
    offsets = torch.tensor([1000 if o == 0 else 5000 for o in owner], dtype=torch.int32)
    out = torch.full((len(ends) + 3, TOPK), -1, dtype=torch.int32)
    got = select(queries_of(case), plan, setup, Output(False, offsets), out=out)
    assert got is out and (out[len(ends) :] == -1).all()
    for row, (end, table_row) in enumerate(zip(ends, owner)):
        keep = 4 if table_row == 0 else KEEP_ALL
        want = {p + int(offsets[row]) for p in brute_force(case, row, table_row, keep, 64)}
        assert set(out[row][out[row] >= 0].tolist()) == want, (row, end)


def pairs_of(requests):
    """Rows of each request as (first position, count) -> (ends, owner, partner of each row or itself)."""
    ends, owner, partner = [], [], []
    for request, (first, count) in requests.items():
        for position in range(first, first + count):
            other = position ^ 1
            inside = first <= other < first + count
            partner.append(len(ends) + (other - position if inside else 0))
            ends.append(position + 1)
            owner.append(request)
    return ends, owner, partner


def segments_of(owner, contexts, block):
    """Each request's rows, with the budgets of the test below."""
    requests = dict.fromkeys(owner)
    rules = {request: Rule(5 if request != 2 else 4, 0, block) for request in requests}
    return [
        Segment(owner.index(request), owner.count(request), contexts[request], rules[request])
        for request in requests
    ]


@pytest.mark.parametrize("refine", ["triton", "deepgemm"])
@pytest.mark.parametrize("block", [64, 128])
@pytest.mark.parametrize(
    "requests",
    [
        {0: (64 * 15 - 42, 42)},
        {0: (64 * 15 - 41, 40), 2: (64 * 6 - 30, 35)},
        {0: (64 * 15, 1), 1: (64 * 9 - 7, 71), 2: (64 * 12 - 1, 2)},
    ],
    ids=["even", "odd ends", "a lone row, pairs over a page's end"],
)
def test_prefill_rows_that_choose_in_pairs(requests, block, refine):
    """Partners see the blocks of the best sums, each up to its own length; a row alone chooses alone."""
    ends, owner, partner = pairs_of(requests)
    assert any(row == other for row, other in enumerate(partner)) == (len(requests) > 1)
    case = make_case(torch.device("cpu"), ends, heads=16, mapped=True, seed=block)
    # Budgets by request; chunks of 32 rows, and fewer pages than a pair's local window and sink need.
    given = from_mapping({"block": block, "prefill_group": 2, "local_tokens": 64})
    config = dataclasses.replace(given, workspace_mb=0)
    owner_t = torch.tensor(owner, dtype=torch.int32)
    keep = torch.tensor([5 if o != 2 else 4 for o in owner], dtype=torch.int32)
    rows = Rows(case.lengths, case.table, owner_t, max(ends), keep, torch.zeros_like(keep), 10)
    contexts = [max([e for e, o in zip(ends, owner) if o == request], default=0) for request in range(3)]
    setup = Setup(config, CpuKernels(True), "torch")
    plan = make_prefill_plan(rows, contexts, setup, refine, segments_of(owner, contexts, block))
    assert plan.group == 2 and (plan.order is None) == (len(requests) == 1)
    own = case.lengths - torch.div(case.lengths - 1, block, rounding_mode="floor") * block
    expected = torch.where(keep * block < case.lengths, (keep - 1) * block + own, case.lengths)
    assert torch.equal(plan.of_rows("candidates"), expected.int())
    for output in (Output(True), Output(False), Output(False, torch.arange(len(ends)).int() * 10_000)):
        out = torch.full((len(ends) + 3, TOPK), -1, dtype=torch.int32)
        args = (queries_of(case), plan, setup, output)
        assert (
            torch.equal(select(*args, out=out)[: len(ends)], select(*args)) and (out[len(ends) :] == -1).all()
        )
        for row, table_row in enumerate(owner):
            want = brute_force(case, row, table_row, int(keep[row]), block, partner[row], PAGE + 1)
            if output.physical:
                want = {int(case.table[table_row, p // PAGE]) * PAGE + p % PAGE for p in want}
            elif output.offsets is not None:
                want = {p + int(output.offsets[row]) for p in want}
            assert set(out[row][out[row] >= 0].tolist()) == want, (row, ends[row])


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("block", [64, 128])
def test_rows_that_end_a_prompt_keep_everything(block, group):
    """Three requests whose last rows keep everything: their tables are wide, the others' stay narrow."""
    rule = Rule(4, 0, block)
    # (first position, rows, tokens of the prompt): the last 20 kept, 11 of 30, none of a middle chunk
    requests = {0: (64 * 15 - 41, 70, 64 * 15 + 29), 1: (64 * 9, 30, 64 * 9 + 39), 2: (64 * 12, 40, 5000)}
    ends, owner, partner = pairs_of({request: given[:2] for request, given in requests.items()})
    case = make_case(torch.device("cpu"), ends, heads=16, mapped=True, seed=block)
    config = dataclasses.replace(from_mapping({"block": block, "prefill_group": group}), workspace_mb=0)
    segments, keep = [], []
    for first, count, prompt in requests.values():
        segments += of_request(len(keep), count, first + count, rule, prompt, 20)
        keep += [KEEP_ALL if end > prompt - 20 else 4 for end in range(first + 1, first + count + 1)]
    contexts = [first + count for first, count, _ in requests.values()]
    rows = Rows.of_segments(case.lengths, case.table, torch.tensor(owner, dtype=torch.int32), segments)
    kept = [4 if b == 4 else KEEP_ALL for b in rows.blocks.tolist()]
    assert rows.share.eq(0).all() and sum(a != b for a, b in zip(kept, keep)) == 2, "of pairs at two odd cuts"
    widest = -(-max(ends) // PAGE)
    assert (rows.max_length, rows.width) == (max(ends), widest)
    setup = Setup(config, CpuKernels(True), "torch")
    plan = make_prefill_plan(rows, contexts, setup, "deepgemm", segments)
    narrow, wide = 4 * block // PAGE, max(segment.width for segment in segments)
    assert {chunk.width for chunk in plan.chunks} == {narrow, wide} and wide == widest
    assert plan.of_rows("candidates").gt(4 * block).tolist() == [one == KEEP_ALL for one in kept]
    out = torch.full((len(ends) + 3, TOPK), -1, dtype=torch.int32)
    args = (queries_of(case), plan, setup, Output(physical=True))
    select(*args, out=out)
    assert torch.equal(out[: len(ends)], select(*args)) and (out[len(ends) :] == -1).all()
    for row, table_row in enumerate(owner):
        other = partner[row] if group == 2 else None
        want = brute_force(case, row, table_row, kept[row], block, other, PAGE + group - 1)
        want = {int(case.table[table_row, p // PAGE]) * PAGE + p % PAGE for p in want}
        assert set(out[row][out[row] >= 0].tolist()) == want, (row, ends[row])


@pytest.mark.parametrize("refine", ["triton", "deepgemm"])
@pytest.mark.parametrize(
    "share,group,heads", [(0.0, 4, 0.25), (0.0, 8, 0.5), (1.0, 8, 0.25), (0.5, 1, 0.125)]
)
def test_few_heads_score_the_tokens_of_rows_beyond_the_budget(share, group, heads, refine):
    """Rows within it, and those that end the prompt, are stock's: all tokens, all heads. The others choose
    pages by all heads of a group, and tokens by the heads of their own largest weights."""
    rule = Rule(5, round(share * (1 << 16)), 64, heads)
    # (first position, rows, tokens of the prompt): over the budget's end; within a group; the last 20 kept
    requests = {0: (64 * 5 - 3, 70, 5000), 1: (64 * 9 + 5, 21, 5000), 2: (64 * 12 - 1, 60, 64 * 12 + 59)}
    ends, owner, _ = pairs_of({request: given[:2] for request, given in requests.items()})
    case = make_case(torch.device("cpu"), ends, heads=64, mapped=True, seed=group)
    given = {"prefill_group": group, "prefill_heads": heads, "dense_tail_tokens": 20}
    config = dataclasses.replace(from_mapping(given), workspace_mb=0)
    segments, wanted = [], []
    for first, count, prompt in requests.values():
        base = len(wanted)
        segments += of_request(base, count, first + count, rule, prompt, 20, group)
        cut = (prompt - 20) // max(2, group) * max(2, group)
        for position in range(first, first + count):
            stock = position >= cut or position < 320
            last = min(cut, first + count) - 1
            places = range(position // group * group, position // group * group + group)
            beside = [base + min(max(p, first, 320), last) - first for p in places]
            bound = int(case.lengths[beside[-1]])
            wanted.append((None, KEEP_ALL, [base]) if stock else (int(64 * heads), rule.count(bound), beside))
    contexts = [first + count for first, count, _ in requests.values()]
    rows = Rows.of_segments(case.lengths, case.table, torch.tensor(owner, dtype=torch.int32), segments)
    setup = Setup(config, CpuKernels(True), "torch")
    plan = make_prefill_plan(rows, contexts, setup, refine, segments, heads=64)
    assert plan.pruned().tolist() == [few is not None for few, _, _ in wanted]
    assert {chunk.heads for chunk in plan.chunks} == {0, int(64 * heads)}
    assert {chunk.refine for chunk in plan.chunks if not chunk.heads} == {refine}
    chosen = select(queries_of(case), plan, setup, Output(physical=False))
    for row, (few, keep, beside) in enumerate(wanted):
        want = brute_force(case, row, owner[row], keep, 64, beside, PAGE + group - 1, few)
        assert set(chosen[row][chosen[row] >= 0].tolist()) == want, (row, ends[row])


def test_few_heads_are_scored_by_the_kernel_that_takes_them():
    """DeepGEMM's takes 32 and 64, and two rows a tile."""
    assert [routed_kernel("deepgemm", kept, 2) for kept in (64, 32, 16, 8)] == ["deepgemm"] * 2 + [
        "triton"
    ] * 2
    assert routed_kernel("deepgemm", 32, 4) == routed_kernel("triton", 32, 2) == "triton"


@pytest.mark.parametrize("phase", ["decode", "prefill"])
def test_elsewhere_than_on_hopper_rows_stand_alone_in_several_calls(phase):
    """The choice is that of rows alone on Hopper; a call has at most one row for each multiprocessor."""
    context = 64 * 15
    ends = list(range(context - 40, context + 1))
    case = make_case(torch.device("cpu"), ends, heads=16, mapped=phase == "prefill", seed=3)
    rule = Rule(5, 0, 64)
    rows = Rows(case.lengths, case.table, None, context, rule.blocks, 0, rule.width(context))
    if phase == "prefill":
        rows = dataclasses.replace(rows, table_rows=torch.zeros(41, dtype=torch.int32))

    def chosen(device, group):
        window = 66 - group  # the same for both groups, whose second widens it by a token
        given = {"prefill_group": group, "local_tokens": window}
        setup = Setup(from_mapping(given), CpuKernels(True, device), "torch")
        if phase == "decode":
            plan = make_decode_plan(rows, setup, "deepgemm", seals=False)
        else:
            segments = [Segment(0, 41, context, rule)]
            plan = make_prefill_plan(rows, [context], setup, "deepgemm", segments)
        return select(queries_of(case), plan, setup, Output(physical=True)), setup.stock.asked

    alone, calls = chosen(CPU, 1)
    assert calls == [(41, 1)]
    given, calls = chosen(BLACKWELL, 2)
    assert torch.equal(given, alone) and calls == [(9, 1)] * 4 + [(5, 1)]
    if phase == "prefill":
        assert chosen(CPU, 2)[1] == [(21, 2)], "on Hopper in pairs, one of them of a row without its partner"


def test_rows_that_do_not_follow_one_another_choose_alone():
    case = make_case(torch.device("cpu"), [64 * 9, 64 * 7 + 1], heads=16, mapped=True)
    rows = Rows(case.lengths, case.table, case.table_rows, 64 * 9, 4, 0, 4)
    config, contexts = from_mapping({"prefill_group": 2}), [64 * 9, 64 * 7 + 1]

    def group(config, *counts):
        segments = [Segment(i, n, contexts[i], Rule(4, 0, 64)) for i, n in enumerate(counts)] or None
        setup = Setup(config, CpuKernels(True), "torch")
        return make_prefill_plan(rows, contexts, setup, "triton", segments).group

    assert group(config) == 1
    assert group(config, 1, 1) == 1, "one row each: twice the work for nothing"
    assert group(from_mapping({"prefill_group": 1}), 2) == 1


@pytest.mark.parametrize("rows", [1, 31, 33, 1025, 9000])
def test_spans_cover_the_rows_of_each_part_in_whole_groups(rows):
    parts = [_RowPart(rows, 128), _RowPart(7, 2048)]
    spans = list(_spans(parts, 2048, from_mapping({"workspace_mb": 64})))
    assert [s[0] for s in spans] == [0, *[s[1] for s in spans[:-1]]] and spans[-1][1] == rows + 7
    assert [s[2] for s in spans] == [parts[0]] * (len(spans) - 1) + [parts[1]], "the last part is one chunk"
    for start, stop, part in spans:
        assert (stop - start) * (part.width * 66 + 2048) * 4 <= 64 << 20
        assert start % 16 == 0 or start == rows


def token_score(case, row, position):
    """DSA's index score of one token of the row's context, in float64 from the stored bytes."""
    page = case.index_k[int(case.table[case.table_rows[row], position // PAGE])]
    at = position % PAGE
    key = page[at * 128 : at * 128 + 128].view(torch.float8_e4m3fn).double()
    scale = float(page[64 * 128 + at * 4 :][:4].clone().view(torch.float32))
    dots = torch.relu(case.q[row].double() @ (key * scale))
    return float((dots * case.weights[row].double()).sum())


@pytest.mark.parametrize("form", ["slots", "positions", "offsets"])
def test_audit_counts_only_pruned_rows(form):
    case = make_case(torch.device("cpu"), [64 * 3, 64 * 20, 64 * 25 + 7], heads=16, mapped=True, seed=4)
    case.weights *= 0.01  # so that the softmax is not all on one token
    config = from_mapping({})
    rule = Rule(4, 0, 64)
    rows = Rows(case.lengths, case.table, case.table_rows, 64 * 25 + 7, rule.blocks, 0, rule.width(64 * 26))
    setup = Setup(config, CpuKernels(True), "torch")
    contexts = case.lengths.tolist()
    plan = make_prefill_plan(rows, contexts, setup, "triton")
    queries = queries_of(case)
    offsets = torch.tensor([7, 5000, 90], dtype=torch.int32) if form == "offsets" else None
    output = Output(form == "slots", offsets)
    chosen = select(queries, plan, setup, output)
    audit = Audit(1.0)
    sample = audit.sample(plan, contexts, setup)
    audit.observe(7, sample, chosen, queries, setup, output)
    want, mass = [], []
    for row in (1, 2):
        dense = brute_force(case, row, row, KEEP_ALL, 64)
        ours = brute_force(case, row, row, 4, 64)
        want.append(len(dense & ours) / TOPK)
        score = {p: token_score(case, row, p) for p in dense}
        weight = {p: math.exp(s - max(score.values())) for p, s in score.items()}
        mass.append(sum(weight[p] for p in dense - ours) / sum(weight.values()))
    report = audit.report()
    assert report["rows"] == 2 and report["worst_layer"] == 7
    assert report["recall"] == pytest.approx(sum(want) / 2)
    assert all(0.01 < share < 0.99 for share in mass) and abs(sum(mass) - 1) > 0.05
    assert report["missed_mass"] == pytest.approx(sum(mass) / 2, rel=1e-3)
    assert report["worst_missed_mass"] == report["missed_mass"]
    assert Audit(0).sample(plan, contexts, setup) is None
    tenth = Audit(0.1)
    steps = [tenth.sample(plan, contexts, setup) for _ in range(10)]
    taken = [None if step is None else step.rows.tolist() for step in steps]
    assert taken == [[1], [2], *[None] * 7, [0]], "steps of fewer rows than the stride take turns"
    audited = []
    for step in (steps[0], steps[1]):
        for layer_id in range(12):
            tenth.observe(layer_id, step, chosen, queries, setup, output)
        audited.append(tenth.totals()[0])
    assert audited == [[1, 10], [1, 2, 10, 11]], "a ninth of the layers a step, others at the next"
    assert Audit(0.5).report() == {
        "rows": 0,
        "recall": None,
        "worst_layer": None,
        "worst_recall": None,
        "missed_mass": None,
        "worst_missed_mass": None,
        "layers": {},
    }


def test_audit_finds_the_worst_layer():
    layers, totals = [2, 5, 9], [[1.5, 0.25, 2.0], [1.0, 0.75, 2.0], [0.0, 0.0, 0.0]]
    report = summarise(layers, totals)
    assert report["rows"] == 4 and report["recall"] == 2.5 / 4 and report["missed_mass"] == 0.25
    assert (report["worst_layer"], report["worst_recall"], report["worst_missed_mass"]) == (5, 0.5, 0.375)
    assert report["layers"] == {2: 0.75, 5: 0.5}, "a layer without a pruned row has no recall"


def test_kept_finds_common_entries():
    a = torch.tensor([[1, 2, 3, -1], [9, 8, -1, -1], [-1, -1, -1, -1]], dtype=torch.int32)
    b = torch.tensor([[3, 4, 1, 0], [-1, -1, -1, -1], [5, -1, -1, -1]], dtype=torch.int32)
    assert kept(b, a).tolist() == [[True, False, True, False], [False] * 4, [False] * 4]
    assert kept(a, b).sum(dim=1).tolist() == [2, 0, 0]


def test_summaries_find_a_flipped_byte():
    case = make_case(torch.device("cpu"), [64 * 5], heads=16)
    pool = PageSummaries([case.index_k, case.index_k[:0]], start_layer=3, backend="torch")
    pages = torch.arange(1, 20)
    pool.reseal(pages)
    assert pages[pool.differs(3, pages)].numel() == 0
    pool.layer(3).keys.view(torch.uint8)[7, 99] ^= 1
    pool.layer(3).scales[9] *= 1.0000002
    case.index_k[11, 5] ^= 0x40
    assert pages[pool.differs(3, pages)].tolist() == [7, 9, 11]
    pool.seal_tokens(3, torch.tensor([7 * 64 + 63, 9 * 64 + 62]))
    assert pages[pool.differs(3, pages)].tolist() == [9, 11]
    assert pool.nbytes == case.index_k.shape[0] * 132
