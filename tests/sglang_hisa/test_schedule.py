"""How DeepGEMM's paged logits are called, against a literal reading of what its kernels do with a split.

Read from the headers of sgl-deep-gemm 0.1.5.post1 and 0.2.3.post2, which SGLang 0.5.17 and 0.5.23 pin; both
have these rules.
"""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from sglang_hisa import PAGE
from sglang_hisa.config import from_mapping, parse
from sglang_hisa.patches import rehearsal
from sglang_hisa.schedule import (
    PAIR,
    SPLIT,
    Device,
    decode_calls,
    differences,
    paged_logits,
    prefill_calls,
    ragged_lengths,
    work_split,
)

HOPPER, BLACKWELL = (9, 0), (10, 0)


def _pieces(length):
    return -(-length // SPLIT)


class Sm90:
    """``deep_gemm/include/deep_gemm/scheduler/sm90_paged_mqa_logits.cuh``, of one or two tokens a request."""

    @staticmethod
    def metadata(lengths, processors):
        """``sm90_paged_mqa_logits_metadata``: the last processors take one piece more."""
        pieces = [_pieces(tokens[-1]) for tokens in lengths]
        each, more = divmod(sum(pieces), processors)
        split = []
        for processor in range(processors):
            start = processor * each + max(processor - (processors - more), 0)
            request = 0
            while request < len(pieces) and sum(pieces[: request + 1]) <= start:
                request += 1
            split.append([request, start - sum(pieces[:request])])
        return [*split, [len(lengths), 0]]

    @staticmethod
    def walk(split, lengths):
        """``fetch_next_task``: (processor, row, row of the page table, piece) of each row of a task."""
        tokens = len(lengths[0])
        for processor in range(len(split) - 1):
            (request, piece), end = split[processor], split[processor + 1]
            while [request, piece] != end:
                assert request < len(lengths), "read past the last row"
                for token in range(tokens):
                    yield processor, request * tokens + token, request, piece
                piece += 1
                if piece >= _pieces(lengths[request][-1]):
                    request, piece = request + 1, 0


class Sm100:
    """``deep_gemm/include/deep_gemm/scheduler/sm100_paged_mqa_logits.cuh``, where a request is one block of
    query tokens (``BLOCK_Q = 128 / kNumHeads``: two with 64 heads)."""

    @staticmethod
    def metadata(lengths, processors):
        """``sm100_paged_mqa_logits_metadata``: query tokens, and the first processors take one unit more."""
        tokens = len(lengths[0])
        work = [_pieces(of[-1]) * tokens for of in lengths]
        each, more = divmod(sum(work), processors)
        split = []
        for processor in range(processors + 1):
            unit = processor * each + min(processor, more)
            request = 0
            while request < len(work) and sum(work[: request + 1]) <= unit:
                request += 1
            if request < len(work):
                split.append([request * tokens, (unit - sum(work[:request])) // tokens])
            else:
                split.append([len(lengths) * tokens, 0])
        return split

    @staticmethod
    def walk(split, lengths):
        """``next_q_block``: requests by their first query token, up to the next processor's start."""
        tokens, rows = len(lengths[0]), len(lengths) * len(lengths[0])
        flat = [length for of in lengths for length in of]
        for processor in range(len(split) - 1):
            (token, base), (end_token, end_piece) = split[processor], split[processor + 1]
            done = token >= rows or (token == end_token and base >= end_piece)
            while not done:
                assert token + tokens <= rows, "read past the last row"
                upper = end_piece if token == end_token else _pieces(flat[token + tokens - 1])
                for piece in range(base, upper):
                    for one in range(tokens):
                        yield processor, token + one, token // tokens, piece
                done = token == end_token or token + tokens >= rows
                token, base = token + tokens, 0
                done = done or (token == end_token and end_piece == 0)


SCHEDULERS = {HOPPER: Sm90, BLACKWELL: Sm100}


class Splits:
    """A GPU of this capability: its scheduler makes splits, and its kernel is walked."""

    def __init__(self, capability, processors):
        self.device, self.calls = Device(processors, capability), []
        self.scheduler = SCHEDULERS[capability]

    def schedule(self, lengths):
        return torch.tensor(self.scheduler.metadata(lengths.tolist(), self.device.processors)).int()

    def paged_logits(self, q, index_k, weights, lengths_2d, table, schedule, max_length):
        """How often each piece of each row is scored, with the number of the row's page table."""
        self.calls.append(len(lengths_2d))
        scored = torch.zeros(lengths_2d.numel(), max_length)
        for _, row, of, piece in self.scheduler.walk(schedule.tolist(), lengths_2d.tolist()):
            scored[row, piece] += table[of, 0]
        return scored


def ragged(rows, group, seed=0):
    """No length of zero: a kernel may spend a task on one, which scores nothing."""
    last = torch.randint(1, 9000, (rows,), generator=torch.Generator().manual_seed(seed), dtype=torch.int32)
    last[rows // 2] = SPLIT  # no part of a piece
    return torch.stack([(last - back).clamp_min(1) for back in range(group - 1, -1, -1)], dim=1)


def scored(stock, calls, lengths):
    """What the calls score, and what must be: each piece of each row once, of its own table."""
    groups, group = lengths.shape
    width, table = _pieces(9000), torch.arange(1, groups + 1)[:, None]
    q = torch.zeros(groups * group, 1)
    found = paged_logits(stock, calls, q, None, q, lengths, table, width)
    pieces = torch.div(lengths[:, -1] + SPLIT - 1, SPLIT, rounding_mode="floor").repeat_interleave(group)
    expected = (torch.arange(width) < pieces[:, None]) * table.repeat_interleave(group, dim=0)
    return found, expected.float()


@pytest.mark.parametrize("capability", [HOPPER, BLACKWELL])
@pytest.mark.parametrize("processors", [1, 7, 132])
@pytest.mark.parametrize("rows", [1, 3, 133, 401])
@pytest.mark.parametrize("calls_of", [prefill_calls, decode_calls])
def test_each_piece_is_scored_once_by_the_scheduler_of_the_gpu(capability, processors, rows, calls_of):
    stock = Splits(capability, processors)
    for group in {1, min(PAIR, stock.device.group) if calls_of is prefill_calls else 1}:
        lengths = ragged(rows, group, seed=rows)
        found, expected = scored(stock, calls_of(lengths, stock), lengths)
        assert torch.equal(found, expected), group
    assert sum(stock.calls) >= rows
    if capability == BLACKWELL:
        assert max(stock.calls) <= processors, "SGLang 0.5.23: batch_size <= num_sms"
    else:
        assert max(stock.calls) == rows, "one call"


def test_hoppers_split_is_not_one_of_blackwell():
    """Why it is not used there: it has no check, scores rows of other pairs and reads past the last."""
    lengths, tables = ragged(33, 2), []
    with pytest.raises(AssertionError, match="past the last row"):
        for _, row, of, _ in Sm100.walk(work_split(lengths[:, -1], 7).tolist(), lengths.tolist()):
            tables.append(of == row // 2)
    assert not all(tables), "rows are scored with the page table of another pair"
    assert Device(7, BLACKWELL).group == 1


@pytest.mark.parametrize("processors", [1, 7, 132])
@pytest.mark.parametrize("rows", [1, 3, 132, 1001])
def test_our_split_is_hoppers(rows, processors):
    for group in (1, 2):
        for lengths in (ragged(rows, group), ragged_lengths(rows, group), torch.zeros(rows, group).int()):
            split = work_split(lengths[:, -1], processors)
            assert split.dtype == torch.int32 and split.shape == (processors + 1, 2)
            assert split.tolist() == Sm90.metadata(lengths.tolist(), processors)
    done = list(Sm90.walk(work_split(lengths[:, -1] + SPLIT, processors).tolist(), [[SPLIT]] * rows))
    each = torch.bincount(torch.tensor([who for who, *_ in done]), minlength=processors)
    assert each.max() - each.min() <= 1


@pytest.mark.parametrize("capability", [HOPPER, BLACKWELL])
def test_no_rows_need_no_call(capability):
    none = torch.zeros(0, 1, dtype=torch.int32)
    assert decode_calls(none, Splits(capability, 7)) == ()
    assert paged_logits(None, (), none, None, none, none, none, 128).shape == (0, 128)


def test_a_cpu_takes_hoppers_form():
    device = Device(132, None)
    assert device.hopper and device.group == 16 and device.rows_per_call(500) == 500


@pytest.mark.parametrize("group", [1, 2])
def test_lengths_of_the_comparison_are_ragged(group):
    lengths = ragged_lengths(45, group)
    assert lengths.shape == (45, group) and lengths.dtype == torch.int32 and lengths.min() == 0
    last = lengths[:, -1]
    assert {int(one) % SPLIT == 0 for one in last} == {int(one) % 2 == 0 for one in last} == {True, False}
    assert len(set(last.tolist())) > 30 and (lengths[:, 0] <= last).all() and last.max() > 30 * SPLIT


def wrong_splits(change):
    stock = Splits(HOPPER, 11)
    return SimpleNamespace(
        device=stock.device, schedule=lambda lengths: change(stock.schedule(lengths), lengths)
    )


CHANGES = {
    "Blackwell's": lambda split, lengths: torch.tensor(Sm100.metadata(lengths.tolist(), 11)).int(),
    "one piece off": lambda split, lengths: split + (torch.arange(12)[:, None] == 5).int(),
    "another number of processors": lambda split, lengths: split[:-1],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_deepgemm_that_splits_in_another_way_is_refused(change):
    cpu, config = torch.device("cpu"), parse('{"preset": "paper", "audit": 0.5}')
    rehearsal.check_split(config, Splits(HOPPER, 11), cpu)
    rehearsal.check_split(config, Splits(BLACKWELL, 11), cpu)  # where our split is not used
    stock = wrong_splits(CHANGES[change])
    assert differences(stock, cpu)
    with pytest.raises(SystemExit, match="splits the work") as caught:
        rehearsal.check_split(config, stock, cpu)
    message = str(caught.value)
    assert "45 x 2 rows: " in message and "not [" in message
    typed = message.partition("export SGLANG_HISA='")[2].partition("'")[0]
    assert parse(typed) == dataclasses.replace(config, refine="triton")


@pytest.mark.gpu
def test_it_is_what_deepgemm_itself_says():
    import deep_gemm

    processors = deep_gemm.get_num_sms()
    for count in (processors, processors - 1):  # a stage of a pipeline
        stock = SimpleNamespace(
            device=Device(count, torch.cuda.get_device_capability()),
            schedule=lambda lengths, count=count: deep_gemm.get_paged_mqa_logits_metadata(
                lengths, PAGE, count
            ),
        )
        assert stock.device.hopper and differences(stock, torch.device("cuda")) == []
    assert from_mapping({"preset": "paper"}).prefill_group == 2
    for rows, group in ((1024, 1), (4000, 2)):
        lengths = ragged(rows, group).cuda()
        assert torch.equal(work_split(lengths[:, -1], count), stock.schedule(lengths))
