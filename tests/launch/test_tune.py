"""What `hisa bench tune` concludes from measured times; the measuring itself needs a GPU."""

from __future__ import annotations

import itertools
from dataclasses import fields, replace

import pytest

from sglang_hisa.config import PAGE
from sglang_hisa.kernels.settings import DEFAULT, Settings
from sglang_hisa.launch.bench import tune


def rows(kernel, times):
    """``{values: {(rows, context): us}}`` as the benchmark tells them."""
    names = tune.FIELDS[kernel]
    return [
        {"kernel": kernel, "rows": r, "context": c, "settings": dict(zip(names, values)), "us": us}
        for values, shapes in times.items()
        for (r, c), us in shapes.items()
    ]


def test_tried_values_are_settings_and_the_default_is_among_them():
    known = {field.name for field in fields(Settings)}
    for kernel, names in tune.FIELDS.items():
        assert set(names) <= known
        assert all(len(values) == len(names) for values in tune.TRIED[kernel]), kernel
        assert tuple(getattr(DEFAULT, name) for name in names) in tune.TRIED[kernel], kernel


def test_the_least_product_over_all_shapes_wins():
    """(4) is best at one shape, (8) at both together."""
    shapes = {(4,): {(1, 4096): 2.0, (64, 4096): 40.0}, (8,): {(1, 4096): 3.0, (64, 4096): 20.0}}
    assert tune.best(rows("pick", shapes), "pick") == {"pick_warps": 8}
    assert tune.settings_of(rows("pick", shapes)) == replace(DEFAULT, pick_warps=8)


@pytest.mark.parametrize("slow", [1.0, 100.0], ids=["counting wins at few rows", "counting never wins"])
def test_counting_is_tuned_where_it_beats_a_search(slow):
    """A tile of 8 is best for one row, where counting is used; one of 16 for 64, where it is not."""
    few, many = (1, 64 * 1024), (64, 64 * 1024)
    small, large = (8, 1024, 4), (16, 1024, 4)
    counted = {small: {few: 2.5 * slow, many: 90.0}, large: {few: 3.0 * slow, many: 40.0}}
    found = tune.settings_of(rows("rank", counted) + rows("pick", {(8,): {few: 5.0, many: 7.0}}))
    if slow > 1:
        assert found.rank_pairs == 0
    else:
        assert found.rank_pairs == (64 * 1024 // PAGE) ** 2
        assert (found.rank_tile, found.rank_chunk, found.rank_warps) == small
    assert found.pick_warps == 8


def test_the_table_shows_what_is_gained_at_each_shape():
    shapes = {(4,): {(1, 65536): 3.0}, (8,): {(1, 65536): 2.0}}
    assert tune.table(rows("pick", shapes)).splitlines() == [
        "pick: pick_warps=8",
        "     64K x 1         3.00 ->     2.00 us",
    ]


def test_every_kernel_of_the_grid_has_shapes():
    assert {r for r, _ in tune.DECODE} == {1, 16, 64}
    assert len(set(itertools.chain(tune.DECODE, tune.PREFILL))) == len(tune.DECODE) + len(tune.PREFILL)
