"""The scenes. Each sends one round of requests and reports what went wrong."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from sglang_hisa import PAGE
from sglang_hisa.launch.ab import quality
from sglang_hisa.launch.common.server import ServerProcess

RETRACT = {"SGLANG_TEST_RETRACT": "1", "SGLANG_TEST_RETRACT_INTERVAL": "7"}
"""SGLang's own fault injection (srt/environ.py): retract decode requests every few forwards."""


@dataclass(frozen=True)
class Load:
    """Sizes of a round, in tokens and requests."""

    longest: int
    at_once: int
    vocab: int = 256
    out: int = 24


@dataclass
class Round:
    """What one round did."""

    requests: int = 0
    problems: list[str] = field(default_factory=list)
    facts: dict[str, float] = field(default_factory=dict)
    """The largest value of each in this round."""


Play = Callable[[ServerProcess, Load, random.Random], Round]


def _tokens(source: random.Random, length: int, load: Load) -> list[int]:
    return [source.randrange(3, load.vocab) for _ in range(length)]


def _lengths(source: random.Random, load: Load, count: int) -> list[int]:
    """Random lengths; half of them end at most a token from a page boundary, where errors are likeliest."""
    odd = [source.randint(1, load.longest) for _ in range(count)]
    return [
        n if i % 2 else min(load.longest, max(1, n // PAGE * PAGE + i // 2 % 3 - 1))
        for i, n in enumerate(odd)
    ]


def _short(answer: Mapping[str, Any], wanted: int) -> list[str]:
    got = len(answer["output_ids"])
    return [] if got == wanted else [f"{got} of {wanted} tokens: {answer['meta_info']['finish_reason']}"]


def radix(server: ServerProcess, load: Load, source: random.Random) -> Round:
    """Prompts out of a random tree of shared prefixes, more of them than the server has slots."""
    count, stems = 3 * load.at_once, [_tokens(source, n, load) for n in _lengths(source, load, 4)]
    prompts = []
    for number, length in enumerate(_lengths(source, load, count)):
        stem = stems[number % len(stems)][:length]
        prompts.append(stem + _tokens(source, length - len(stem), load) or _tokens(source, 1, load))
    done = Round(count)
    with ThreadPoolExecutor(2 * load.at_once) as pool:
        answers = list(pool.map(lambda p: server.generate(p, load.out), prompts))
    for answer in answers:
        done.problems += _short(answer, load.out)
    done.facts["cached_tokens"] = max(answer["meta_info"]["cached_tokens"] for answer in answers)
    return done


def abort(server: ServerProcess, load: Load, source: random.Random) -> Round:
    """Abort requests by id in prefill and in decode; the requests beside them must be answered in full."""
    done = Round(2 * load.at_once)
    lengths = _lengths(source, load, 2 * load.at_once)
    with ThreadPoolExecutor(2 * load.at_once) as pool:
        names = [f"cut-{source.random()}" for _ in range(load.at_once)]
        cut = [
            pool.submit(server.generate, _tokens(source, max(lengths), load), 40 * load.out, rid=name)
            for name in names
        ]
        kept = [
            pool.submit(server.generate, _tokens(source, n, load), load.out) for n in lengths[load.at_once :]
        ]
        for name in names:
            time.sleep(source.random() * 0.3)
            server.request("/abort_request", {"rid": name})
        for job in kept:
            done.problems += _short(job.result(), load.out)
        for name, job in zip(names, cut):
            if not job.done():  # on a slow machine the abort arrived before the request
                server.request("/abort_request", {"rid": name})
        ends = [job.result()["meta_info"]["finish_reason"]["type"] for job in cut]
    done.facts["aborted"] = ends.count("abort")
    return done


def pause(server: ServerProcess, load: Load, source: random.Random) -> Round:
    """Pause generation, in place and with all requests retracted, and continue it."""
    done = Round(load.at_once)
    with ThreadPoolExecutor(load.at_once) as pool:
        jobs = [
            pool.submit(server.generate, _tokens(source, n, load), 2 * load.out)
            for n in _lengths(source, load, load.at_once)
        ]
        for mode in ("in_place", "retract"):
            time.sleep(0.3)
            server.request("/pause_generation", {"mode": mode})
            server.request("/continue_generation", {})
        for job in jobs:
            done.problems += _short(job.result(), 2 * load.out)
    return done


def warm(server: ServerProcess, load: Load, source: random.Random) -> Round:
    """The same prompt with an empty and with a full cache: KL of the next-token distributions (nats)."""
    length = _lengths(source, load, 1)[0]
    prompt: quality.Prompt = _tokens(source, max(2 * PAGE, length), load)
    shape = quality.Shape(load.vocab, 0, 0)
    cold = quality.ask(server, prompt, shape, with_choices=False)
    again = quality.ask(server, prompt, shape, with_choices=False)
    cached = quality.ask(server, prompt, shape, with_choices=False, flush=False)
    done = Round(3)
    done.facts["kl_cold_cold"] = quality.compare(cold, again).kl_max
    done.facts["kl_warm_cold"] = quality.compare(cold, cached).kl_max
    return done


@dataclass(frozen=True)
class Scene:
    """One scene, and what its server's environment needs."""

    play: Play
    env: Mapping[str, str] = field(default_factory=dict)


SCENES: dict[str, Scene] = {
    "radix": Scene(radix),
    "abort": Scene(abort),
    "pause": Scene(pause),
    "warm": Scene(warm),
    "retract": Scene(radix, RETRACT),
}
