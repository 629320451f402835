"""How a live comparison splits traffic and GPUs, what it reads of metrics, and how it shows them."""

import io
import math
import os
import random
import signal
import statistics
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from rich.console import Console

from sglang_hisa.launch.common.provenance import Provenance
from sglang_hisa.launch.live import formatting, metrics, report, router, split
from sglang_hisa.launch.live.record import Died, LiveFacts, LivePlan, LiveRecord
from sglang_hisa.launch.live.screen import Screen
from sglang_hisa.launch.live.stop import Stop


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("0.1", "1/10"),
        ("0.25", "1/4"),
        ("0.05", "1/20"),
        ("0.15", "3/20"),
        ("0.333", "1/3"),
        ("19/20", "19/20"),
    ],
)
def test_shares(text: str, share: str) -> None:
    found = split.parse_share(text)
    assert found == Fraction(share)
    urls = split.worker_urls(found, "http://127.0.0.1:1", "http://127.0.0.1:2")
    assert len(urls) == len(set(urls)) == found.denominator <= 20
    assert sum(":2" in url for url in urls) == found.numerator


@pytest.mark.parametrize("text", ["0", "1", "0.01", "0.99", "-0.1", "1.5", "x", "1/0", ""])
def test_shares_that_cannot_be_served(text: str) -> None:
    with pytest.raises(ValueError, match="--share"):
        split.parse_share(text)


@pytest.mark.parametrize(
    ("flags", "count"),
    [
        ([], 1),
        (["--tp", "8"], 8),
        (["--tensor-parallel-size=4", "--pp-size", "2", "--context-length", "4096"], 8),
        (["--tp", "2", "--dp", "2"], 4),
        (["--tp", "2", "--dp", "2", "--enable-dp-attention"], 2),
    ],
)
def test_gpus_of_a_server(flags: list[str], count: int) -> None:
    assert split.gpus_per_server(flags) == count


def test_gpus_are_split_or_shared() -> None:
    assert split.own_gpus(["3", "5", "7"], 1) == ["3", "5"]
    assert split.own_gpus(list("01234567"), 4) == ["0,1,2,3", "4,5,6,7"]
    assert split.own_gpus(["0"], 1) is None and split.own_gpus(["0", "1", "2"], 2) is None


def test_every_try_can_reach_the_other_arm() -> None:
    given = router.flags(["u"] * 20, 12.4)
    assert int(given[given.index("--retry-max-retries") + 1]) >= 20
    assert given[given.index("--shutdown-grace-period-secs") + 1] == "13", "not cut before"


class Exported:
    """A registry with what SGLang and HISA export, under their labels."""

    def __init__(self) -> None:
        kept = self.registry = CollectorRegistry()
        labels, buckets = ["model", "tp_rank"], (0.1, 0.2, 0.4, 0.8)
        self.requests = Counter("sglang:num_requests", "", [*labels, "is_streaming"], registry=kept)
        self.running = Gauge("sglang:num_running_reqs", "", ["model", "priority"], registry=kept)
        self.tokens = Counter("sglang:realtime_tokens", "", [*labels, "mode"], registry=kept)
        self.ttft = Histogram(metrics.TTFT, "", [*labels, "is_streaming"], buckets=buckets, registry=kept)
        self.itl = Histogram(metrics.ITL, "", labels, buckets=buckets, registry=kept)
        self.candidates = Counter("sglang_hisa:candidate_tokens", "", ["phase"], registry=kept)
        self.context = Counter("sglang_hisa:context_tokens", "", ["phase"], registry=kept)
        self.checks = Counter("sglang_hisa:canary_checks", "", registry=kept)
        self.violations = Counter("sglang_hisa:canary_violations", "", registry=kept)
        self.recall = Gauge("sglang_hisa:audit_recall", "", registry=kept)

    def read(self, at: float) -> metrics.Reading:
        return metrics.parse(generate_latest(self.registry).decode(), at)


def test_a_window_is_what_happened_between_two_readings() -> None:
    out = Exported()
    out.requests.labels("m", "0", "true").inc(5)
    out.ttft.labels("m", "0", "true").observe(0.7)
    out.candidates.labels("prefill").inc(1000)
    out.context.labels("prefill").inc(1000)
    out.recall.set(math.nan)
    first = out.read(10.0)
    out.requests.labels("m", "0", "true").inc(2)
    out.requests.labels("m", "0", "false").inc(3)
    out.running.labels("m", "").set(4)
    out.running.labels("m", "1").set(4)  # the same requests by priority
    out.tokens.labels("m", "0", "prefill_cache").inc(300)
    out.tokens.labels("m", "0", "prefill_compute").inc(900)
    for seconds in (0.15, 0.15, 0.3):
        out.ttft.labels("m", "0", "true").observe(seconds)
    out.ttft.labels("m", "0", "false").observe(0.7)  # known only when the whole answer was there
    out.tokens.labels("m", "0", "decode").inc(36)
    for _ in range(36):
        out.itl.labels("m", "0").observe(0.05)
    out.candidates.labels("prefill").inc(250)
    out.context.labels("prefill").inc(1000)
    out.checks.inc(7)
    found = metrics.window(first, out.read(14.0))
    assert (found.seconds, found.requests, found.running) == (4.0, 5, 4)
    assert (found.ttft_count, found.itl_count) == (3, 36)
    assert found.ttft_p50_s == pytest.approx(0.175) and found.itl_p50_s == pytest.approx(0.05)
    assert found.decode_tok_s == 9.0 and found.prefill_tok_s == 225.0 and found.cache_hit == 0.25
    assert found.candidates_prefill == 0.25 and found.candidates_decode is None
    assert (found.canary_checks, found.canary_violations, found.audit_recall) == (7, 0, None)
    out.recall.set(0.5)
    again = metrics.window(first, out.read(14.0))
    assert again.audit_recall == 0.5 and again.audit_worst_recall is None


def test_quantiles_lie_in_the_bucket_of_the_true_one() -> None:
    source = random.Random(3)
    bounds = [0.01 * 1.3**i for i in range(30)]
    drawn = [source.lognormvariate(-1.5, 0.8) for _ in range(733)]
    buckets = {bound: float(sum(x <= bound for x in drawn)) for bound in [*bounds, math.inf]}
    assert metrics.count(buckets) == 733
    for q, true in ((0.5, statistics.median(drawn)), (0.95, sorted(drawn)[int(0.95 * 733)])):
        found = metrics.quantile(buckets, q)
        assert found is not None and true / 1.3 <= found <= true * 1.3
    assert metrics.quantile({0.1: 0.0, math.inf: 3.0}, 0.5) == 0.1, "above the last bound"
    assert metrics.quantile({}, 0.5) is None and metrics.quantile({0.1: 0.0, math.inf: 0.0}, 0.5) is None


@pytest.mark.parametrize("text", ["", "python_gc_objects_total 3\n", "<html>"])
def test_a_server_without_metrics(text: str) -> None:
    with pytest.raises(ValueError):
        metrics.parse(text, 0.0)


def record(**changes: Any) -> LiveRecord:
    out = Exported()
    first = out.read(0.0)
    out.requests.labels("m", "0", "true").inc(1234)
    facts = LiveFacts(totals=metrics.window(first, out.read(60.0)))
    plan = LivePlan(arms=("stock", "wide"), baseline="stock", slots=(3, 20), place="GPUs 0 and 1")
    made = LiveRecord(
        **{"refusals": (), "complete": True, "stopped_by": "SIGINT", "seconds": 60.0, "plan": plan},
        **{"provenance": Provenance(cpu="x"), "model": "m", "flags": ()},
        arms={"stock": facts, "wide": facts},
    )
    return replace(made, **changes)


def shown(kept: LiveRecord) -> str:
    console = Console(file=io.StringIO(), width=200)
    report.print_report(kept, console)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_a_report_has_counts_and_no_verdict() -> None:
    text = shown(record())
    assert "1,234" in text and "stock 17 of 20 requests, wide 3 of 20; GPUs 0 and 1" in text
    assert "no verdict" in text and "faster" not in text and "PARTIAL" not in text


def test_a_report_starts_with_what_went_wrong() -> None:
    kept = record(cut="2 running, 1 queued", complete=False, stopped_by="no arm is left")
    kept.arms["wide"] = replace(kept.arms["wide"], died=Died(-9, 41.0, "1 running, 0 queued"))
    text = shown(kept)
    for words_of_it in (
        "was killed from outside by SIGKILL",
        "2 running, 1 queued",
        "PARTIAL (no arm",
    ):
        assert words_of_it in text
    refused = shown(record(refusals=("arm wide: no HISA receipt",), complete=False, seconds=None))
    assert "REFUSED: arm wide: no HISA receipt" in refused and "PARTIAL" not in refused


def test_the_screen_is_a_table_on_a_terminal_and_lines_elsewhere() -> None:
    totals = record().arms["stock"].totals
    windows = {"stock": totals, "wide": None}
    for terminal in (False, True):
        file = io.StringIO()
        with Screen(Console(file=file, width=200, force_terminal=terminal)) as screen:
            screen.show(12.0, "1 of 2", windows, {"stock": totals, "wide": totals})
        text = file.getvalue()
        assert ("stock, now" in text) == terminal
        assert ("12 s, wide: no answer" in text) == (not terminal)
        assert "1,234" in text
    assert formatting.line(totals).startswith("requests 1,234; running, queued 0, 0")


def test_the_first_gentle_signal_asks_and_every_other_interrupts() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Stop() as stop:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        assert not stop.asked
        stop.gentle = True
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked == "SIGTERM"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == before
