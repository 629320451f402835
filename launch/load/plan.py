"""What a load test sends: the workload, the loads of the sweep, the latency limits (SLOs)."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from sglang_hisa.launch.common import fresh
from sglang_hisa.launch.common.limits import Limits
from sglang_hisa.launch.load.points import Request
from sglang_hisa.launch.load.prompts import Prompt

WORKLOADS = ("random", "shared-prefix", "multi-turn", "file")
SLOS = {
    "ttft": "seconds to the first token",
    "itl": "seconds between two tokens, 99 of 100 gaps of a request",
    "tpot": "mean seconds between the tokens of a request",
    "e2e": "seconds to the last token",
}
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Workload:
    """Prompts of random tokens. Beside ``random``, ``groups`` prefixes of ``prefix_tokens`` are shared.

    ``input_tokens`` is the whole (first) prompt; each later turn of a conversation adds as many tokens as
    the first has beside its prefix. Lengths are exact for ``random``; elsewhere the generator sends text,
    which a tokenizer may cut differently.
    """

    name: str
    input_tokens: int
    output_tokens: int
    groups: int = 4
    prefix_tokens: int = 0
    turns: int = 1
    prompts: tuple[Prompt, ...] = ()
    """Of the workload ``file``, whose ``input_tokens`` is 0: the tokenizer says how long they are."""

    def __post_init__(self) -> None:
        """Raises ``ValueError``: an unknown name, or lengths that do not fit each other."""
        if self.name not in WORKLOADS:
            raise ValueError(f"workload {self.name!r}: one of {', '.join(WORKLOADS)}")
        if self.name == "file":
            if not self.prompts or self.output_tokens < 1:
                raise ValueError(
                    "a file of prompts needs at least one prompt, and answers of at least one token"
                )
            return
        if min(self.input_tokens, self.output_tokens, self.groups, self.turns) < 1:
            raise ValueError("lengths, groups and turns must be at least 1")
        if self.name != "random" and not 0 < self.prefix_tokens < self.input_tokens:
            raise ValueError(
                f"the shared prefix must have 1 to {self.input_tokens - 1} of the prompt's tokens"
            )


@dataclass(frozen=True)
class Sweep:
    """``kind`` is ``concurrency`` (requests open at a time) or ``rate`` (arrivals a second, Poisson).

    ``requests`` a point; None: 4 for each concurrent slot and at least 16, or the arrivals of ``seconds``.
    With several turns a request is a conversation.
    """

    kind: str
    loads: tuple[float, ...]
    requests: int | None
    seconds: float
    limit_s: float
    seed: int

    def __post_init__(self) -> None:
        """Raises ``ValueError``: a number that is not above 0."""
        numbers = (*self.loads, self.seconds, self.limit_s, 1 if self.requests is None else self.requests)
        if not all(0 < x < math.inf for x in numbers):
            raise ValueError("loads, requests and seconds must be finite numbers above 0")

    def count(self, load: float) -> int:
        """Requests (conversations) of a point."""
        if self.requests is not None:
            return self.requests
        return max(16, 4 * int(load)) if self.kind == "concurrency" else max(1, round(load * self.seconds))


def fresh_sweep(work: Workload, sweep: Sweep, nonce: str) -> Sweep:
    """``sweep`` with prompts that no other ``nonce`` has, as far as its seed says them.

    Prompts of the ``random`` workload are told apart by their first tokens (:meth:`Client.run`), and keep the
    seed of their arrivals.
    """
    if work.name == "random":
        return sweep
    return replace(sweep, seed=(sweep.seed + zlib.crc32(nonce.encode())) % 2**31)


def old_prompts(work: Workload, requests: Sequence[Request]) -> list[int]:
    """Cached tokens of the requests of a point that should have been new to every cache, and were not.

    Of ``random`` prompts all are new. Elsewhere the first of each group is (with turns, of all: conversations
    may share the words of a chat template): not half of its prefix is cached. Where too few are new, those
    that are least cached are returned.
    """
    if work.name == "file":
        return []  # the user's own prompts: what they share with each other, and with earlier runs, is theirs
    told = [(r.cached, r.input) for r in requests if r.error is None and r.cached is not None]
    if work.name == "random":
        return fresh.old([cached for cached, _ in told])
    firsts = 1 if work.turns > 1 else min(work.groups, len(requests))
    firsts -= len(requests) - len(told)  # a first one may be among those that failed
    least = sorted(told, key=lambda one: one[0])[: max(firsts, 0)]
    share = work.prefix_tokens / work.input_tokens  # the tokenizer may cut text into more or fewer tokens
    return fresh.old([cached for cached, size in least if 2 * cached >= share * size])


def fits(known: Limits, work: Workload, sweep: Sweep) -> tuple[str | None, list[str]]:
    """Why the server would refuse the prompts (None: it takes them), and which loads wait in its queue.

    Only the lengths of ``random`` are exact: of the others nothing is refused, what may be is told.
    """
    sizes = (work.input_tokens, work.output_tokens)
    why = known.refusal(*sizes)
    told = [f"prompts are of about this length: {why}"] if why and work.name != "random" else []
    if sweep.kind == "concurrency":
        waits = ((load, known.crowding(*sizes, int(load))) for load in sweep.loads)
        told += [f"concurrency {load:g}: {wait}" for load, wait in waits if wait]
    return (why if work.name == "random" else None), told


def parse_loads(text: str, kind: str) -> tuple[float, ...]:
    """``1,2,4`` -> loads, ascending; concurrencies are whole. Raises ``ValueError``."""
    number = int if kind == "concurrency" else float
    try:
        return tuple(sorted({float(number(part)) for part in text.split(",")}))
    except ValueError:
        example = "1,2,4" if kind == "concurrency" else "0.5,1,2"
        raise ValueError(f"--{kind} {text!r}: expected numbers, as in {example}") from None


def parse_slo(text: str) -> dict[str, float]:
    """``ttft=2,itl=0.05`` or ``ttft=2s,itl=50ms`` -> seconds by name. Raises ``ValueError``."""
    found = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        value, unit = (value[:-2], 1e-3) if value.endswith("ms") else (value.removesuffix("s"), 1.0)
        if name.strip() not in SLOS:
            raise ValueError(f"SLO {part!r}: expected NAME=SECONDS, where NAME is one of {', '.join(SLOS)}")
        try:
            found[name.strip()] = float(value) * unit
        except ValueError:
            raise ValueError(
                f"SLO {part!r}: a number of seconds is missing, as in {name.strip()}=2"
            ) from None
    if not all(0 < limit < math.inf for limit in found.values()):
        raise ValueError(f"SLO {text!r}: limits must be above 0 seconds")
    return found


def local_url(text: str) -> str:
    """``text`` without a path, if it is this machine.

    Raises:
        ValueError: another machine, or no http URL.
    """
    parts = urlsplit(text if "//" in text else f"http://{text}")
    if parts.scheme != "http" or parts.path.strip("/") or parts.query:
        raise ValueError(f"{text}: a server's address looks like http://127.0.0.1:30000")
    if parts.hostname not in LOCAL_HOSTS:
        raise ValueError(
            f"{text}: a load test goes to this machine only ({', '.join(LOCAL_HOSTS)}), so that no server is "
            "overloaded by a mistyped address; run it where the server runs"
        )
    host = f"[{parts.hostname}]" if parts.hostname == "::1" else parts.hostname
    return f"http://{host}:{parts.port or 30000}"


def flags(url: str, model: str, tokenizer: str, work: Workload, sweep: Sweep, index: int) -> list[str]:
    """The benchmark's flags of point ``index``."""
    load = sweep.loads[index]
    count = sweep.count(load)
    out = [
        *("--base-url", url, "--model", model, "--tokenizer", tokenizer),
        *("--backend", "sglang-oai-chat" if work.turns > 1 else "sglang"),
        *("--seed", str(sweep.seed + index), "--warmup-requests", "0"),
        *("--flush-cache", "--cache-report"),
    ]
    if sweep.kind == "concurrency":
        out += ["--max-concurrency", str(int(load))]
    else:
        out += ["--request-rate", str(load)]
    if work.name in ("random", "file"):  # prompts of a file go to the generator beside these flags
        return [
            *out,
            *("--dataset-name", "random-ids", "--tokenize-prompt", "--random-range-ratio", "1"),
            *(
                "--random-input-len",
                str(work.input_tokens or 1),
                "--random-output-len",
                str(work.output_tokens),
            ),
            *("--num-prompts", str(count)),
        ]
    groups = min(work.groups, count)
    return [
        *out,
        *("--dataset-name", "generated-shared-prefix", "--gsp-range-ratio", "1"),
        # A routing key keeps the generator from its file of kept prompts, which is not by model.
        *("--gsp-send-routing-key", "--gsp-num-turns", str(work.turns)),
        *("--gsp-num-groups", str(groups), "--gsp-prompts-per-group", str(-(-count // groups))),
        *("--gsp-system-prompt-len", str(work.prefix_tokens)),
        *("--gsp-question-len", str(work.input_tokens - work.prefix_tokens)),
        *("--gsp-output-len", str(work.output_tokens)),
    ]
