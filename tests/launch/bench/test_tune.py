"""What `hisa bench tune` concludes from measured times; the measuring itself needs a GPU."""

from __future__ import annotations

import itertools
from dataclasses import fields, replace

import pytest

from sglang_hisa import PAGE
from sglang_hisa.kernels.tuning import DEFAULT, Tuning
from sglang_hisa.launch.bench import tune
from sglang_hisa.launch.bench.record import TuneRecord, TuneRow
from sglang_hisa.launch.common.record import load
from sglang_hisa.launch.pages.reader import ROOT


def rows(kernel, times):
    """``{values: {(rows, context): us}}`` as the benchmark tells them."""
    names = tune.FIELDS[kernel]
    return [
        TuneRow(kernel=kernel, rows=r, context=c, settings=dict(zip(names, values)), us=us)
        for values, shapes in times.items()
        for (r, c), us in shapes.items()
    ]


def test_tried_values_are_settings_and_the_default_is_among_them():
    known = {field.name for field in fields(Tuning)}
    for kernel, names in tune.FIELDS.items():
        assert set(names) <= known
        assert all(len(values) == len(names) for values in tune.TRIED[kernel]), kernel
        if kernel != "refine_rows":  # a bound, found between the values that are tried
            assert tuple(getattr(DEFAULT, name) for name in names) in tune.TRIED[kernel], kernel


def test_the_least_product_over_all_shapes_wins():
    """(4) is best at one shape, (8) at both together."""
    shapes = {(4,): {(1, 4096): 2.0, (64, 4096): 40.0}, (8,): {(1, 4096): 3.0, (64, 4096): 20.0}}
    assert tune.best(rows("pick", shapes), "pick") == {"pick_warps": 8}
    assert tune.tuning_of(rows("pick", shapes)) == replace(DEFAULT, pick_warps=8)


@pytest.mark.parametrize("slow", [1.0, 100.0], ids=["counting wins at few rows", "counting never wins"])
def test_counting_is_tuned_where_it_beats_a_search(slow):
    """A tile of 8 is best for one row, where counting is used; one of 16 for 64, where it is not."""
    few, many = (1, 64 * 1024), (64, 64 * 1024)
    small, large = (8, 1024, 4), (16, 1024, 4)
    counted = {small: {few: 2.5 * slow, many: 90.0}, large: {few: 3.0 * slow, many: 40.0}}
    found = tune.tuning_of(rows("rank", counted) + rows("pick", {(8,): {few: 5.0, many: 7.0}}))
    if slow > 1:
        assert found.rank_pairs == 0
    else:
        assert found.rank_pairs == (64 * 1024 // PAGE) ** 2
        assert (found.rank_tile, found.rank_chunk, found.rank_warps) == small
    assert found.pick_warps == 8


@pytest.mark.parametrize(
    "ours,found",
    [
        ({1: 12.0, 4: 15.0, 16: 24.0, 64: 60.0}, 16),  # slower at 64
        ({1: 12.0, 4: 15.0, 16: 24.0, 64: 50.0}, 64),
        ({1: 12.0, 4: 18.0, 16: 24.0, 64: 50.0}, 1),  # what is faster beyond a slower size does not count
        ({1: 14.0, 4: 15.0, 16: 24.0, 64: 50.0}, 0),  # equal is not faster
    ],
)
def test_our_refine_kernel_is_taken_up_to_the_first_size_where_it_is_not_faster(ours, found):
    theirs = {1: 14.0, 4: 17.0, 16: 26.0, 64: 55.0}
    layers = [{(r, 131072): us for r, us in times.items()} for times in (theirs, ours)]
    told = rows("refine_rows", dict(zip(tune.TRIED["refine_rows"], layers)))
    assert tune.best(told, "refine_rows") == {"refine_rows": found}
    assert tune.tuning_of(told) == replace(DEFAULT, refine_rows=found)
    lines = tune.table(told).splitlines()
    assert lines[0] == f"refine_rows: refine_rows={found}"
    assert lines[1] == f"    128K x 1        14.00 -> {ours[1]:8.2f} us"
    assert len(lines) == 1 + len(theirs), "every size is shown, whichever is faster"


def test_refine_is_tuned_over_decode_and_prefill_together():
    """The second is best in decode, the first in prefill and at both together."""
    first, second = tune.TRIED["refine"][:2]
    shapes = {
        first: {(1, 65536): 4.0, (8192, 65536): 1000.0},
        second: {(1, 65536): 3.5, (8192, 65536): 2000.0},
    }
    assert tune.best(rows("refine", shapes), "refine") == dict(zip(tune.FIELDS["refine"], first))


def test_the_table_shows_what_is_gained_at_each_shape():
    shapes = {(4,): {(1, 65536): 3.0}, (8,): {(1, 65536): 2.0}}
    assert tune.table(rows("pick", shapes)).splitlines() == [
        "pick: pick_warps=8",
        "     64K x 1         3.00 ->     2.00 us",
    ]


def test_every_kernel_of_the_grid_has_shapes():
    assert {r for r, _ in tune.DECODE} == {1, 16, 64}
    assert [r for r, _ in tune.LAYER] == [1, 4, 16, 32, 64, 128]
    assert len(set(itertools.chain(tune.DECODE, tune.PREFILL))) == len(tune.DECODE) + len(tune.PREFILL)


def test_the_kept_record_is_one_of_these():
    kept = load(ROOT / "launch/results/tune-h100.json", TuneRecord)
    found = {kernel: tune.best(kept.rows, kernel) for kernel in dict.fromkeys(r.kernel for r in kept.rows)}
    assert {"coarse", "rank", "pick"} <= found.keys()
    for chosen in found.values():
        assert chosen.items() <= kept.settings.items()
