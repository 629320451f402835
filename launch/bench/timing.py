"""Timing: CUDA graphs for decode, events for prefill; arms interleaved, L2 flushed, medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

from sglang_hisa.launch.bench.cases import FLUSH_BYTES

Work = Callable[[], object]


def capture(work: Work) -> torch.cuda.CUDAGraph:
    """``work`` as a graph, after two warm-up runs."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
        work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph


AHEAD_CYCLES = 1 << 20
"""Of the GPU's clock, about 0.5 ms: longer than Python takes to launch the kernels of a layer."""


def interleave(
    arms: Mapping[str, Work], repeats: int, per_run: int, *, ahead: bool = False
) -> dict[str, tuple[float, float, float]]:
    """(median, p20, p80) microseconds of one of the ``per_run`` units in each arm's run.

    Each round runs every arm once, with the L2 cache overwritten before each. ``ahead``: the GPU spins first,
    so that the kernels wait for it and not for Python, as in a server, which launches a layer while the GPU
    works on the one before.
    """
    flush = torch.empty(FLUSH_BYTES // 4, dtype=torch.int32, device="cuda")
    times: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(repeats):
        for name, run in arms.items():
            flush.zero_()
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            if ahead:
                torch.cuda._sleep(AHEAD_CYCLES)
            begin.record()
            run()
            end.record()
            end.synchronize()
            times[name].append(begin.elapsed_time(end) * 1000 / per_run)
    result = {}
    for name, values in times.items():
        cuts = statistics.quantiles(values, n=10)
        result[name] = (statistics.median(values), cuts[1], cuts[7])
    return result


def host_us(run: Work, repeats: int) -> float:
    """Median microseconds that Python takes to launch the kernels of ``run`` on an idle GPU."""
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        run()
        times.append((time.perf_counter() - begin) * 1e6)
    torch.cuda.synchronize()
    return statistics.median(times)
