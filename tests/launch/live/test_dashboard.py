"""The Grafana dashboard is well formed, and asks only for metrics that a scheduler exports."""

import json
import re

import pytest
import torch
from prometheus_client import REGISTRY

from sglang_hisa.config import parse
from sglang_hisa.launch.pages import tables
from sglang_hisa.patches.live_metrics import LiveMetrics
from sglang_hisa.patches.metrics import export
from sglang_hisa.patches.runtime import Runtime

FIXED = {"model_name": "m", "engine_type": "unified", "tp_rank": "0", "pp_rank": "0", "dp_rank": "1"}
"""As SGLang labels its own metrics."""
DASHBOARD = tables.ROOT / "launch" / "grafana" / "sglang-hisa.json"


@pytest.fixture
def board():
    return json.loads(DASHBOARD.read_text())


@pytest.fixture
def state():
    made = Runtime(parse('{"preset": "balanced", "audit": 0.01}'), "0.5.23", 15)
    made.rows.allocate(torch.device("cpu"), "torch")
    return made


@pytest.fixture
def live(state):
    before = set(REGISTRY._collector_to_names)
    yield LiveMetrics(state, FIXED)
    for collector in set(REGISTRY._collector_to_names) - before:
        REGISTRY.unregister(collector)


def value(name, **labels):
    return REGISTRY.get_sample_value(f"sglang_hisa:{name}", {**FIXED, **labels})


def expressions(board):
    found = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return found + [v["definition"] for v in board["templating"]["list"] if v["type"] == "query"]


def test_every_expression_names_exported_metrics_and_every_metric_is_shown(board, state, live):
    exported = set()
    for metric in [*export(state, FIXED), *live.metrics.values()]:
        for family in metric.describe():
            exported.add(family.name + ("_total" if family.type == "counter" else ""))
    asked = [set(re.findall(r"\bsglang_hisa:\w+", text)) for text in expressions(board)]
    assert all(asked), "an expression without a metric of ours"
    assert set().union(*asked) <= exported
    assert not exported - set().union(*asked), "metrics that no panel shows"


def test_expressions_and_labels_hold_together(board):
    labels = {"phase", "reason", "mover", "instance", "model_name", "dp_rank"}
    for text in expressions(board):
        for opening, closing in ("()", "[]", "{}"):
            assert text.count(opening) == text.count(closing)
        for name in re.findall(r"(\w+)_total\{[^}]*\}\[", text):
            assert f"rate(sglang_hisa:{name}_total" in text, "a counter is shown as a rate"
        assert {name for names in re.findall(r"by \(([^)]+)\)", text) for name in names.split(", ")} <= labels
    for panel in board["panels"]:
        for target in panel["targets"]:
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= labels


def test_models_are_told_apart(board):
    """Each expression asks for the chosen models, and what is summed up is summed up by model."""
    for panel in board["panels"]:
        for target in panel["targets"]:
            selectors = re.findall(r"sglang_hisa:\w+(\{[^}]*\})", target["expr"])
            assert selectors and all('model_name=~"$model"' in selector for selector in selectors)
            assert all(
                "model_name" in by for by in re.findall(r"(?:sum|avg)([^(]*\([^)]*\))", target["expr"])
            )
            assert target.get("format") == "table" or "{{model_name}}" in target["legendFormat"]
    assert "model" in {variable["name"] for variable in board["templating"]["list"]}


def test_each_metric_has_the_labels_of_sglang(state, live):
    assert state.receipt()["changed"] == ["audit"] and export(state, FIXED)
    found = [
        s.labels for family in REGISTRY.collect() if "sglang_hisa" in family.name for s in family.samples
    ]
    assert found and all(labels.items() >= FIXED.items() for labels in found)
    presets = {labels["preset"] for labels in found if "preset" in labels}
    assert presets == {"balanced (changed: audit)"}


def test_panels_lie_side_by_side_and_take_the_data_source_that_is_chosen(board):
    cells = set()
    for panel in board["panels"]:
        grid = panel["gridPos"]
        assert grid["x"] + grid["w"] <= 24 and panel["title"] and panel["description"]
        across, down = range(grid["x"], grid["x"] + grid["w"]), range(grid["y"], grid["y"] + grid["h"])
        own = {(x, y) for x in across for y in down}
        assert not own & cells, panel["title"]
        cells |= own
        for source in (panel["datasource"], *(target["datasource"] for target in panel["targets"])):
            assert source == {"type": "prometheus", "uid": "${datasource}"}
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs)
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    variables = {v["name"]: v for v in board["templating"]["list"]}
    assert (
        variables["datasource"]["type"] == "datasource" and variables["datasource"]["query"] == "prometheus"
    )
    assert board["id"] is None and re.fullmatch(r"[\w-]{1,40}", board["uid"])


def test_counts_are_told_when_idle_and_once_a_second_under_load(state, live, monkeypatch):
    lengths = torch.tensor([900, 400], dtype=torch.int32)
    assert value("audit_recall") != value("audit_recall"), "no recall before any row was audited"
    state.rows.add("decode", lengths, torch.tensor([320, 400], dtype=torch.int32))
    state.count_stock("prefill: end of prompts", 232)
    state.rebuilt["load_cpu_copy"] += 5
    live.idle()
    assert value("rows_total", phase="decode") == 2 and value("rows_total", phase="prefill") == 0
    assert value("candidate_share", phase="decode") == 720 / 1300
    assert value("stock_rows_total", reason="prefill: end of prompts") == 232
    assert value("summary_rebuilds_total", mover="load_cpu_copy") == 5

    now = 1e9
    monkeypatch.setattr("sglang_hisa.patches.live_metrics.time.monotonic", lambda: now)
    for second, told in ((0, 2), (0.4, 2), (1.2, 6), (1.3, 6)):
        now = 1e9 + second
        live.forward()  # what it sends for arrives at the next call
        state.rows.add("decode", lengths, lengths)
        live.forward()
        assert value("rows_total", phase="decode") == told, second
    state.audit._sums[3] = torch.tensor([1.5, 0.5, 2.0], dtype=torch.float64)
    live.idle()
    live.idle()
    assert value("rows_total", phase="decode") == 10
    assert value("audit_recall") == 0.75 and value("audit_worst_layer") == 3
    assert value("audit_missed_mass") == 0.25 and value("audit_rows_total") == 2


def test_nothing_is_told_of_an_audit_that_is_off(state):
    state.config = parse("balanced")
    before = set(REGISTRY._collector_to_names)
    assert not [name for name in LiveMetrics(state, FIXED).metrics if name.startswith("audit")]
    for collector in set(REGISTRY._collector_to_names) - before:
        REGISTRY.unregister(collector)
