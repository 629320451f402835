"""Records become dataclasses, and what does not fit is refused by the path of its field."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest

from sglang_hisa.launch.common.typed import as_json, null, read


@dataclass(frozen=True)
class Inner:
    name: str
    share: float | None = None


@dataclass(frozen=True)
class Outer:
    sizes: tuple[int, ...]
    slots: tuple[int, int]
    rows: tuple[Inner, ...] = ()
    arms: dict[str, Inner | None] = field(default_factory=dict)
    by_layer: dict[int, float] = field(default_factory=dict)
    complete: bool = False
    note: str | None = None


GOOD = {
    "sizes": [1, 2, 3],
    "slots": [1, 20],
    "rows": [{"name": "a", "share": 1}, {"name": "b", "unknown": {}}],
    "arms": {"stock": None, "paper": {"name": "c"}},
    "by_layer": {"0": 0.5, "12": 1},
    "complete": True,
    "another": "field",
}


def test_everything_below_a_dataclass_is_typed() -> None:
    found = read(Outer, json.loads(json.dumps(GOOD)))
    assert found == Outer(
        sizes=(1, 2, 3),
        slots=(1, 20),
        rows=(Inner("a", 1), Inner("b")),
        arms={"stock": None, "paper": Inner("c")},
        by_layer={0: 0.5, 12: 1},
        complete=True,
    )


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"sizes": [1, "2"]}, r"Outer\.sizes\[1\] is str '2', expected int"),
        ({"sizes": None}, r"Outer\.sizes is NoneType"),
        ({"sizes": [True]}, r"Outer\.sizes\[0\] is bool"),
        ({"slots": [1]}, r"Outer\.slots: 1 values, expected 2"),
        ({"rows": [{"share": 0.5}]}, r"Outer\.rows\[0\] has no name"),
        ({"rows": [{"name": "a", "share": "x"}]}, r"Outer\.rows\[0\]\.share is str 'x'"),
        ({"arms": {"paper": 3}}, r"Outer\.arms\.paper is int '3'"),
        ({"complete": 1}, r"Outer\.complete is int '1', expected bool"),
        ({"note": 5}, r"Outer\.note is int '5', expected str"),
    ],
)
def test_what_does_not_fit_is_named(changed: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read(Outer, {**GOOD, **changed})


def test_a_missing_field_without_a_default_is_named() -> None:
    with pytest.raises(ValueError, match="Outer has no slots"):
        read(Outer, {"sizes": []})


def test_what_was_read_is_written_again_without_what_is_not_known() -> None:
    found = read(Outer, GOOD)
    written = as_json(found)
    assert read(Outer, json.loads(json.dumps(written))) == found
    assert written["rows"] == [{"name": "a", "share": 1}, {"name": "b"}] and "note" not in written
    assert written["arms"] == {"stock": None, "paper": {"name": "c"}}
    assert written["by_layer"] == {"0": 0.5, "12": 1} and written["slots"] == [1, 20]


@dataclass(frozen=True)
class Known:
    tail: str | None = null()
    more: Inner | None = null()


def test_a_null_may_be_missing_and_is_written() -> None:
    assert read(Known, {}) == read(Known, {"tail": None}) == Known()
    assert as_json(Known()) == {"tail": None, "more": None}
    assert as_json(Known(more=Inner("a"))) == {"tail": None, "more": {"name": "a"}}
