"""Summaries: a pure function of the page's bytes, the same bits from every implementation."""

import pytest
import torch

from sglang_hisa import PAGE, kernels
from sglang_hisa.kernels.layout import FP8, HEAD_DIM, KEY_BYTES, dequantised_pages
from tests.kernels.conftest import index_cache


def empty(pages, device):
    poison = torch.full((pages, HEAD_DIM), 0x5A, dtype=torch.uint8, device=device).view(FP8)
    return poison, torch.full((pages,), float("nan"), device=device)


@pytest.mark.parametrize("scale", [0.01, 40.0, 4000.0], ids=lambda s: f"scale{s}")
@pytest.mark.parametrize("spread", [1e-7, 0.01, 1e6], ids=lambda s: f"spread{s}")
def test_triton_gives_the_bits_of_the_reference(device, scale, spread):
    index_k = index_cache(13, device, scale=scale, spread=spread)
    pages = torch.tensor([12, 0, 5, 7], device=device)
    keys, scales = empty(13, device)
    kernels.seal_pages(index_k, pages, keys, scales, "triton")
    cpu_keys, cpu_scales = empty(13, "cpu")
    kernels.seal_pages(index_k.cpu(), pages.cpu(), cpu_keys, cpu_scales, "torch")
    want_keys, want_scales = cpu_keys.to(device), cpu_scales.to(device)
    assert torch.equal(keys.view(torch.uint8), want_keys.view(torch.uint8))
    assert torch.equal(scales[pages], want_scales[pages])
    assert scales.isnan().sum() == 9, "a page that was not asked for was written"


def test_summary_is_the_mean_of_the_keys(device):
    index_k = index_cache(9, device)
    keys, scales = empty(9, device)
    kernels.seal_pages(index_k, torch.arange(9, device=device), keys, scales, "triton")
    mean = dequantised_pages(index_k.cpu(), torch.arange(9)).double().mean(dim=1)
    assert_is(keys, scales, mean)


def assert_is(keys, scales, mean):
    got = keys.cpu().double() * scales.cpu().double()[:, None]
    # e4m3 keeps 4 significant bits; below 2**-6 of the scale the grid is absolute.
    allowed = mean.abs() / 16 + scales.cpu().double()[:, None] * 2**-9
    assert ((got - mean).abs() <= allowed * 1.01).all()


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_tokens_seal_only_pages_that_they_complete(device, backend):
    index_k = index_cache(11, device)
    keys, scales = empty(11, device)
    slots = torch.tensor([63, 64, 3 * PAGE + 62, 9 * PAGE + 63, 10 * PAGE, 0, -1], device=device)
    kernels.seal_tokens([(index_k, keys, scales)], None, slots, backend)
    done = (~scales.isnan()).nonzero().flatten()
    assert done.tolist() == [0, 9]
    whole, whole_scales = empty(11, device)
    kernels.seal_pages(index_k, done, whole, whole_scales, backend)
    assert torch.equal(keys.view(torch.uint8), whole.view(torch.uint8)), "another form than the rebuild's"


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_slots_that_are_a_column_of_a_table(device, backend):
    """As those of one draft step of several requests are."""
    index_k = index_cache(11, device)
    keys, scales = empty(11, device)
    steps = torch.tensor([[62, 63, 64], [5 * PAGE + 62, 5 * PAGE + 63, 6 * PAGE], [1, 2, 3]], device=device)
    kernels.seal_tokens([(index_k, keys, scales)], None, steps.T[1], backend)
    assert (~scales.isnan()).nonzero().flatten().tolist() == [0, 5]


def test_order_of_tokens_does_not_change_a_bit(device):
    """Integer sums: permuting the page's tokens leaves the summary's bits."""
    index_k = index_cache(2, device)
    order = torch.randperm(PAGE).to(device)
    page = index_k[0]
    index_k[1, :KEY_BYTES] = page[:KEY_BYTES].view(PAGE, HEAD_DIM)[order].flatten()
    index_k[1, KEY_BYTES:] = page[KEY_BYTES:].view(PAGE, 4)[order].flatten()
    keys, scales = empty(2, device)
    kernels.seal_pages(index_k, torch.arange(2, device=device), keys, scales, "triton")
    assert torch.equal(keys[0].view(torch.uint8), keys[1].view(torch.uint8))
    assert scales[0] == scales[1]


def test_page_of_zeros(device):
    index_k = torch.zeros(1, index_cache(1, "cpu").shape[1], dtype=torch.uint8, device=device)
    keys, scales = empty(1, device)
    page = torch.zeros(1, dtype=torch.int64, device=device)
    kernels.seal_pages(index_k, page, keys, scales, "triton")
    assert (keys.float() == 0).all() and torch.isfinite(scales).all()


def test_layers_lie_where_16_bytes_can_be_loaded_at_once(device):
    layers = [(index_cache(3, device), *empty(3, device)) for _ in range(2)]
    assert kernels.layer_offsets(layers).shape == (2, 3)
    keys, scales = empty(4, device)
    with pytest.raises(AssertionError, match="16 bytes"):
        kernels.layer_offsets([layers[0], (layers[1][0], keys[1:], scales[1:])])


def test_rows_seal_in_all_layers_at_once(device):
    """Rows that complete a page, and only those, in layers whose buffers lie anywhere."""
    layers, expected = [], []
    for seed in range(3):
        index_k = index_cache(11, device, seed=seed)
        layers.append((index_k, *empty(11, device)))
        expected.append((index_k.cpu(), *empty(11, "cpu")))
    lengths = torch.tensor([64, 0, 63, 192, 65, 128], dtype=torch.int32, device=device)
    table = torch.tensor([[4, 1 << 30, 1 << 30]] * 3 + [[9, 2, 6], [1, 3, 1 << 30], [8, 10, 1 << 30]])
    table = table.int().to(device)
    offsets = kernels.layer_offsets(layers)
    kernels.seal_rows(layers, offsets, table, lengths, "triton")
    cpu = (table.cpu(), lengths.cpu())
    kernels.seal_rows(expected, kernels.layer_offsets(expected), *cpu, "torch")
    for ours, truth in zip(layers, expected, strict=True):
        assert torch.equal(ours[1].cpu().view(torch.uint8), truth[1].view(torch.uint8))
        assert torch.equal(ours[2].cpu().view(torch.int32), truth[2].view(torch.int32))
        assert (~truth[2].isnan()).nonzero().flatten().tolist() == [4, 6, 10]


@pytest.mark.parametrize("backend", ["triton", "torch"])
@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 300])
def test_tokens_seal_in_all_layers_at_once(device, backend, tokens):
    """Tokens of several requests and of padding; some complete a page next to each other, one page twice."""
    layers = [(index_cache(11, device, seed=seed), *empty(11, device)) for seed in range(3)]
    ends = [63, 3 * PAGE + 63, 5 * PAGE + 63, 5 * PAGE + 63]
    slots = [*ends, -1, 7 * PAGE + 62, 0, *range(8 * PAGE, 9 * PAGE), *ends, *range(2 * PAGE, 11 * PAGE)]
    slots = slots[:tokens]
    given = torch.tensor(slots, device=device)
    kernels.seal_tokens(layers, kernels.layer_offsets(layers), given, backend)
    done = sorted({slot // PAGE for slot in slots if slot >= 0 and slot % PAGE == PAGE - 1})
    for index_k, keys, scales in layers:
        assert (~scales.isnan()).nonzero().flatten().tolist() == done
        whole, whole_scales = empty(11, device)
        kernels.seal_pages(index_k, torch.tensor(done, device=device), whole, whole_scales, backend)
        assert torch.equal(keys.view(torch.uint8), whole.view(torch.uint8))
        assert torch.equal(scales[done], whole_scales[done])
