"""Run a load test: one point after the other, everything kept whatever happens."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sglang_hisa.launch.common import auth, fresh, pruning, steady
from sglang_hisa.launch.common.client import Client, ClientFailed, TooLong
from sglang_hisa.launch.common.limits import Limits
from sglang_hisa.launch.common.provenance import Provenance, provenance
from sglang_hisa.launch.common.server import fetch
from sglang_hisa.launch.load import goodput, plan, prompts
from sglang_hisa.launch.load.points import Kept
from sglang_hisa.launch.load.record import KeptPlan, KeptWorkload, LoadRecord, ServerFacts

_RETRACTED = "sglang:num_retracted_requests_total"


class Unreachable(RuntimeError):
    """No SGLang server answers."""


class NotNew(RuntimeError):
    """Prompts came from a cache: their times would be too short."""


def server_facts(url: str, tokenizer: str | None) -> ServerFacts:
    """What the report says of the server.

    Raises:
        Unreachable: no answer, or not SGLang's.
    """
    try:
        info = json.loads(fetch(f"{url}/server_info", timeout=20))
        receipts = [state.get("sglang_hisa") for state in info["internal_states"]]
        return ServerFacts(
            version=info["version"],
            model=info["model_path"],
            tokenizer=tokenizer or info.get("tokenizer_path") or info["model_path"],
            receipt=receipts[0],
            kv_tokens=info["max_total_num_tokens"],
        )
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        if getattr(error, "code", None) in (401, 403):
            raise Unreachable(f"the server at {url} refuses the API key: {auth.HOW}") from None
        why = getattr(error, "reason", None) or error
        raise Unreachable(f"no SGLang server answers at {url} ({type(error).__name__}: {why})") from None


def retracted(url: str) -> int | None:
    """Requests that the server has put back for lack of KV memory; None without ``--enable-metrics``."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        families = list(text_string_to_metric_families(fetch(f"{url}/metrics", timeout=20)))
    except (OSError, ValueError):
        return None
    names = {sample.name for family in families for sample in family.samples}
    if not any(name.startswith("sglang:") for name in names):
        return None
    # A counter has no sample before its first event.
    return int(sum(s.value for family in families for s in family.samples if s.name == _RETRACTED))


def child_env(base: Mapping[str, str]) -> dict[str, str]:
    """``base`` for a generator that reaches this machine directly, whatever proxy is named."""
    hosts = ",".join(part for part in (base.get("no_proxy"), *plan.LOCAL_HOSTS) if part)
    return auth.child({**base, "no_proxy": hosts, "NO_PROXY": hosts})


@dataclass
class Runner:
    """One load test.

    Args:
        url: the server, as :func:`plan.local_url` gives it.
        server: its facts, see :func:`server_facts`.
        work: what to send.
        sweep: how much of it.
        slo: latency limits in seconds, by name of ``plan.SLOS``.
        env: environment of the load generator.
        folder: takes the generator's log.
        save: called with the record after each point.
        tell: called after each point with what is kept of it.
        limits: what the server takes, for the record.
    """

    url: str
    server: ServerFacts
    work: plan.Workload
    sweep: plan.Sweep
    slo: dict[str, float]
    env: Mapping[str, str]
    folder: Path
    save: Callable[[LoadRecord], object]
    tell: Callable[[Kept], None]
    limits: Limits | None = None
    record: LoadRecord = field(init=False)

    def __post_init__(self) -> None:
        self._nonce = fresh.nonce()
        self._before: pruning.Rows | None = None
        self.record = LoadRecord(
            provenance=Provenance(**provenance()),
            url=self.url,
            server=self.server,
            plan=KeptPlan(KeptWorkload.of(self.work), self.sweep),
            nonce=self._nonce,
            slo=self.slo,
            limits=self.limits,
        )

    def run(self) -> int:
        """Measure every load, lightest first.

        Returns:
            The exit code: 0, 1 the server failed, 2 prompts were not new, 130 interrupted.
        """
        code = 0
        try:
            with Client(self.env, self.folder / "client.log") as client:
                self._warm_up(client)
                for index in range(len(self.sweep.loads)):
                    self._point(client, index)
            self.record = replace(self.record, complete=True)
        except KeyboardInterrupt:
            code = self._stopped("interrupt", 130)
        except TooLong as error:
            self._stopped(f"load {self.sweep.loads[len(self.record.points)]:g}: {error}", 0)
        except NotNew as error:
            code = self._stopped(str(error), 2)
        except (Unreachable, ClientFailed) as error:
            reason, _, tail = str(error).partition("\n")
            code = self._stopped(reason, 1, tail or None)
        self.save(self.record)
        return code

    def _stopped(self, why: str, code: int, log_tail: str | None = None) -> int:
        self.record = replace(self.record, stopped_by=why, log_tail=log_tail)
        return code

    def _send(self, client: Client, sweep: plan.Sweep, index: int, nonce: str) -> Mapping[str, Any]:
        """Send point ``index`` of ``sweep``, with prompts that are new to every cache."""
        sweep = plan.fresh_sweep(self.work, sweep, nonce)
        flags = plan.flags(self.url, self.server.model, self.server.tokenizer, self.work, sweep, index)
        own = self._own_prompts(sweep, index)
        try:
            return client.run(flags, sweep.limit_s, fresh=f"{nonce} {index}", prompts=own)
        except ClientFailed:
            server_facts(self.url, None)  # the server's end explains it better
            raise

    def _own_prompts(self, sweep: plan.Sweep, index: int) -> list[tuple[str, int]] | None:
        """Prompts of a file: a load begins where the one before ended, so that few repeat."""
        if self.work.name != "file":
            return None
        first = sum(sweep.count(load) for load in sweep.loads[:index])
        count = sweep.count(sweep.loads[index])
        return prompts.for_generator(self.work.prompts, count, self.work.output_tokens, first)

    def _warm_up(self, client: Client) -> None:
        """One request of its own: a storage would keep the benchmark's warm-up, which is the first prompt."""
        self._send(client, replace(self.sweep, requests=1), 0, f"{self._nonce} warm-up")
        self._before = pruning.of_server(self.url)

    def _steady(self, result: Mapping[str, Any], index: int) -> steady.Steady | None:
        """Decode while all slots decode; None of rates and conversations, which have no such time."""
        if self.sweep.kind != "concurrency" or self.work.turns > 1:
            return None
        return steady.of_result(result, int(self.sweep.loads[index]), self.work.output_tokens)

    def _point(self, client: Client, index: int) -> None:
        before = retracted(self.url)
        result = self._send(client, self.sweep, index, self._nonce)
        after = retracted(self.url)
        kept = Kept(
            load=self.sweep.loads[index],
            duration_s=round(result["duration"], 4),
            requests=goodput.requests(result),
            retractions=None if before is None or after is None else after - before,
            steady=self._steady(result, index),
            arrived=goodput.arrived(result["arrivals"]) if self.sweep.kind == "rate" else None,
        )
        if old := plan.old_prompts(self.work, kept.requests):
            raise NotNew(fresh.was_old(old, len(kept.requests), f"load {kept.load:g}"))
        rows = pruning.since(self._before, pruning.of_server(self.url))
        self.record = replace(
            self.record, rows=tuple(rows) if rows else None, points=(*self.record.points, kept)
        )
        self.save(self.record)
        self.tell(kept)
        if not kept.answered:
            server_facts(self.url, None)
            raise ClientFailed(f"load {kept.load:g}: every request failed ({kept.failed[0]})")


def line(kept: Kept, kind: str) -> str:
    """A point in one line, for the progress."""
    seen = [request.ttft for request in kept.requests if request.ttft is not None]
    ttft = f"TTFT {statistics.median(seen):.3f} s" if seen else "no first token seen"
    came = f" ({kept.arrived:.2f} arrived)" if kept.arrived is not None else ""
    return f"{kind} {kept.load:g}{came}: {len(kept.requests)} requests, {ttft}"
