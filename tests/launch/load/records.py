"""Made-up load records: every request's time is given."""

from sglang_hisa.launch.common.typed import read
from sglang_hisa.launch.load.points import Request


def answer(ttft, itl=0.02, error=None, **more):
    """A request as the record keeps it; ``ttft`` None: no first token was seen."""
    times = {"ttft": ttft, "itl": itl, "tpot": itl / 2, "e2e": None if ttft is None else ttft + 1}
    if ttft is None:
        times = dict.fromkeys(times)
    return {**times, "input": 8192, "output": 0 if error else 5, "cached": 0, "error": error, **more}


def request(ttft, **more):
    """:func:`answer` as its reader has it."""
    return read(Request, answer(ttft, **more))


def make(points, *, slo=None, kind="concurrency", turns=1, **more):
    """The JSON of a record of ``points``: load -> requests; each point took 10 s."""
    work = {"name": "random", "input_tokens": 8192, "output_tokens": 5, "groups": 4, "prefix_tokens": 0}
    sweep = {"kind": kind, "loads": list(points), "requests": None, "seconds": 60, "limit_s": 900, "seed": 1}
    return {
        **{"schema_version": 1, "kind": "hisa-load", "complete": True, "stopped_by": None, "log_tail": None},
        "provenance": {"gpu": None, "cpu": "x86_64", "sglang": "0.5.17", "date": "2026-02-03T00:00:00"},
        "url": "http://127.0.0.1:30000",
        "server": {
            **{"version": "0.5.17", "model": "tiny-dsa", "tokenizer": "tiny-dsa"},
            **{"receipt": None, "kv_tokens": 123456},
        },
        "plan": {"workload": {**work, "turns": turns}, "sweep": sweep},
        "slo": {"ttft": 2.0, "itl": 0.05} if slo is None else slo,
        "points": [
            {"load": load, "duration_s": 10.0, "requests": kept, "retractions": 0}
            for load, kept in points.items()
        ],
        **more,
    }
