"""The benchmark of a step's fixed cost without a GPU: its arms do the same, and an error costs one case."""

import json

import pytest
import torch

from sglang_hisa import PAGE
from sglang_hisa.launch.bench import plan as bench
from sglang_hisa.launch.bench.plan_record import PlanRecord
from sglang_hisa.launch.common.record import load
from sglang_hisa.patches import stock
from tests.sglang_hisa.test_indexer import CpuKernels

CPU = torch.device("cpu")


class Planners(CpuKernels):
    index_topk = 2048

    def topk_plan(self, lengths):
        return lengths.clone()


def test_both_arms_plan_and_count_alike():
    cases = bench.decode(7, 32 * 1024, "paper", Planners(True), CPU)
    assert [(case.work, case.refine) for case in cases] == [
        (work, refine) for refine in ("triton", "deepgemm") for work in ("plan", "planners")
    ]
    for case in cases[::2]:
        (one, ones), (other, others) = (case.arms[name]() for name in ("torch", "triton"))
        for field in ("picks", "candidates"):
            assert torch.equal(one.of_rows(field), other.of_rows(field))
        assert ones.report() == others.report()
        assert ones.report()["decode"]["rows"] == 6, "one of them is padding"
        assert ones.report()["decode"]["candidate_share"] < 0.9, "most are pruned"


def test_both_ways_to_seal_seal_the_same():
    found = {}
    for name in ("each", "once"):
        summaries = bench.pool(5 * PAGE + 3, 3, CPU)
        for layer in summaries.layers:
            layer.scales.fill_(-1)
        bench.seals(5 * PAGE + 3, summaries).arms[name]()
        found[name] = [layer.scales.tolist() for layer in summaries.layers]
    assert found["each"] == found["once"] and found["each"][0].count(-1) == 1, "the last page is not complete"


def test_a_case_that_fails_is_recorded_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stock, "serverless_kernels", lambda topk: Planners(True))
    monkeypatch.setattr(torch, "device", lambda kind: CPU)

    def rows_of(case, rounds):
        if case.refine == "deepgemm":
            raise RuntimeError("out of registers")
        return iter([bench.row_of(case, name, launches=2.0, us=1.5) for name in case.arms])

    monkeypatch.setattr(bench, "gpu_case", rows_of)
    out = tmp_path / "made" / "plan.json"
    argv = ["--out", str(out), "--batches", "3", "--bound", "16384", "--tokens", "70", "--layers", "2"]
    assert bench.main(argv) == 1
    record = load(out, PlanRecord)
    assert [(row.work, row.arm, row.error) for row in record.rows] == [
        ("plan", "torch", ""),
        ("plan", "triton", ""),
        ("planners", "stock", ""),
        ("plan", "", "RuntimeError: out of registers"),
        ("planners", "", "RuntimeError: out of registers"),
        ("seal", "each", ""),
        ("seal", "once", ""),
    ]
    assert json.loads(out.read_text())["kind"] == "hisa-plan" and record.provenance.date
    assert "2.0 launches, 1.5 us" in capsys.readouterr().out


def test_an_output_is_asked_for():
    with pytest.raises(SystemExit):
        bench.parsed([])
    assert bench.parsed(["--out", "x"]).batches == [1, 16, 64]
