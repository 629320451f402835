"""Made-up A/B records: known speed-ups under seeded noise."""

import random

from sglang_hisa.launch.ab.record import AbRecord
from sglang_hisa.launch.common.typed import read

CELLS = [
    {"input_tokens": 8192, "output_tokens": 32, "concurrency": 1, "requests": 2},
    {"input_tokens": 8192, "output_tokens": 32, "concurrency": 3, "requests": 5},
    {"input_tokens": 30001, "output_tokens": 32, "concurrency": 1, "requests": 3},
]


def make(factors, *, seed=0, rounds=6, noise=0.01, cells=CELLS):
    """A record whose arm ``name`` is ``factors[name]`` times as fast as the first, the baseline.

    ``noise`` is the deviation of the logarithm, once for the measurement and again for each request.
    """
    draw = random.Random(seed)
    measurements = []
    for r in range(rounds):
        for arm in list(factors)[:: -1 if r % 2 else 1]:
            for c, cell in enumerate(cells):
                n, size = cell["requests"], cell["input_tokens"]
                luck = draw.lognormvariate(0, noise) / factors[arm]
                one = [luck * draw.lognormvariate(0, noise) for _ in range(n)]
                gaps = [luck * draw.lognormvariate(0, noise) for _ in range(n * (cell["output_tokens"] - 1))]
                seconds = (1.2 + size / 8192) * luck * cell["concurrency"]
                measurements.append(
                    {
                        **{"round": r, "arm": arm, "cell": c, "seed": r, "errors": []},
                        **{"completed": n, "requests": n, "input_lens": [size] * n, "output_lens": [32] * n},
                        "ttft_s": [size * 1e-5 * cell["concurrency"] * x for x in one],
                        "tpot_s": [0.011 * x for x in one],
                        "itl_s": [0.01 * x for x in gaps],
                        "output_tok_s": n * 32 / seconds,
                        "total_tok_s": n * (size + 32) / seconds,
                        "duration_s": seconds,
                    }
                )
    names = list(factors)
    arms = {
        name: {
            "setting": None if name == names[0] else '{"preset": "paper"}',
            "receipt": None if name == names[0] else {"active": True, "version": "0.1.0"},
            "kv_tokens": 123456,
            "summary_bytes": None if name == names[0] else 3 << 20,
            **{"version": "0.5.17", "starts_s": [41.2], "log_tail": None},
        }
        for name in names
    }
    return {
        **{"schema_version": 1, "kind": "hisa-ab", "complete": True, "stopped_by": None, "refusals": []},
        "provenance": {"gpu": None, "cpu": "x86_64", "sglang": "0.5.17", "date": "2026-02-03T00:00:00"},
        **{"model": "tiny-dsa", "flags": ["--page-size", "64"]},
        "plan": {
            **{"arms": names, "baseline": names[0], "together": False, "rounds": rounds},
            **{"cells": cells, "seed": 1},
        },
        **{"arms": arms, "measurements": measurements},
    }


def typed(record):
    """The JSON of a record as its readers have it."""
    return read(AbRecord, record)


def crash(record, arm):
    """``record`` as it is when ``arm``'s server never came up: nothing known of it, nothing measured."""
    tail = "RuntimeError: out of memory <see above>"
    unknown = dict.fromkeys(("setting", "receipt", "kv_tokens", "summary_bytes", "version"))
    return {
        **record,
        **{"complete": False, "stopped_by": f"arm {arm}: server died"},
        "arms": {**record["arms"], arm: {**unknown, "starts_s": [], "log_tail": tail}},
        "measurements": [m for m in record["measurements"] if m["arm"] != arm],
    }
