"""What tables say of presets that have changed since their records, and of made-up weights."""

from dataclasses import replace
from typing import Any

import pytest

from sglang_hisa.config import PRESETS, Config, from_mapping
from sglang_hisa.launch.ab.record import AbRecord
from sglang_hisa.launch.common.record import load
from sglang_hisa.launch.pages import changed
from sglang_hisa.launch.pages.reader import RESULTS


def config(preset: str, **then: Any) -> dict[str, Any]:
    return {**vars(from_mapping({"preset": preset})), **then}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_of_today_has_not_changed(preset: str) -> None:
    assert changed.since(preset, config(preset)) == []
    assert changed.since(preset, config(preset, audit=0.5, canary="full", workspace_mb=64)) == []


def test_keys_of_a_phase_that_is_left_to_stock_do_not_count() -> None:
    assert "prefill_group" not in changed.keys(Config(prefill_tokens=0))
    assert changed.since("decode-only", config("decode-only", prefill_group=1)) == []


def test_what_changed_is_named_with_both_values() -> None:
    then = config("balanced", prefill_group=2, prefill_fraction=0.125)
    del then["prefill_heads"]  # a record from before there was this key: all heads scored
    assert changed.since("balanced", then) == [
        "`prefill_fraction` 0.125 (0.25 now)",
        "`prefill_group` 2 (8 now)",
        "`prefill_heads` 1 (0.25 now)",
    ]


def test_a_table_says_it_and_one_without_changes_does_not() -> None:
    kept = {name: load(RESULTS / f"{name}.json", AbRecord) for name in ("ab-defaults", "ab-many-32k")}
    assert changed.note(kept) == (
        "<sub>Presets have changed since: `balanced` had `prefill_group` 2 (8 now), "
        "`prefill_heads` 1 (0.25 now) in `ab-defaults`.</sub>"
    )
    assert changed.note({"ab-many-32k": kept["ab-many-32k"]}) == ""


def test_runs_whose_index_scores_are_nearly_equal_are_named() -> None:
    kept = {name: load(RESULTS / f"{name}.json", AbRecord) for name in ("ab-defaults", "ab-many-distinct")}
    assert changed.crowded(kept).startswith("<sub>Made-up weights of these records have index scores")
    later = {**kept, "ab-later": load(RESULTS / "ab-served.json", AbRecord)}
    assert "weights of `ab-defaults`, `ab-many-distinct` have" in changed.crowded(later)
    trained = replace(kept["ab-defaults"], flags=("--load-format", "auto"))
    assert changed.crowded({"ab-later": later["ab-later"], "ab-trained": trained}) == ""
