"""DeepGEMM's work split, against a literal reading of what its kernel does with one."""

import pytest
import torch

from sglang_hisa.schedule import SPLIT, work_split


def walk(split, lengths):
    """(processor, row, piece) in the order that ``fetch_next_task`` of DeepGEMM's scheduler takes them."""
    pieces = [-(-length // SPLIT) for length in lengths]
    for processor in range(len(split) - 1):
        row, piece = split[processor]
        while [row, piece] != split[processor + 1]:
            assert row < len(lengths), "read past the last row"
            yield processor, row, piece
            piece += 1
            if piece >= pieces[row]:
                row, piece = row + 1, 0


@pytest.mark.parametrize("processors", [1, 7, 132])
@pytest.mark.parametrize("rows", [1, 3, 132, 4096])
def test_every_piece_is_scored_once_and_all_work_alike(rows, processors):
    generator = torch.Generator().manual_seed(rows)
    lengths = torch.randint(1, 9000, (rows,), generator=generator, dtype=torch.int32)
    lengths[rows // 2] = SPLIT  # no part of a piece
    split = work_split(lengths, processors)
    assert split.dtype == torch.int32 and split.shape == (processors + 1, 2)
    done = list(walk(split.tolist(), lengths.tolist()))
    pieces = [(row, i) for row, n in enumerate(lengths.tolist()) for i in range(-(-n // SPLIT))]
    assert [(row, piece) for _, row, piece in done] == pieces
    each = torch.bincount(torch.tensor([who for who, _, _ in done]), minlength=processors)
    assert each.max() - each.min() <= 1 and split[-1].tolist() == [rows, 0]


@pytest.mark.parametrize("rows", [1, 5, 33, 1024, 4000])
@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.gpu
def test_it_is_what_deepgemm_itself_says(rows, group):
    import deep_gemm

    lengths = torch.randint(2049, 9000, (rows, 1), dtype=torch.int32, device="cuda").repeat(1, group)
    expected = deep_gemm.get_paged_mqa_logits_metadata(lengths, 64, 132)
    assert torch.equal(work_split(lengths[:, -1], 132), expected)
