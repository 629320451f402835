"""The indexer's kernels in one decode layer of a server, by SGLang's profiler: stock DSA and presets.

  python -m sglang_hisa.launch.bench.server_layer --out OUT
                                        64 requests that share 128K tokens
  python -m sglang_hisa.launch.bench.server_layer --out OUT --render
                                        only print again what OUT/traces shows

The kernel benchmark runs the same few kernels over and over on random scores. Here they stand between the
others of a model, on the scores of its (made-up) weights. The servers have few layers, so their steps are
short; a layer is as in the whole model. Takes three minutes on one GPU.
"""

from __future__ import annotations

import gzip
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from sglang_hisa.config import environment
from sglang_hisa.launch.common import models
from sglang_hisa.launch.common.arms import parse_arms
from sglang_hisa.launch.common.help import tool
from sglang_hisa.launch.common.provenance import provenance
from sglang_hisa.launch.common.server import ServerProcess, child_env
from sglang_hisa.launch.common.serving import gpu_flags, prompt

KERNELS = {
    "_coarse_kernel": "HISA coarse",
    "_rank_kernel": "HISA rank",
    "_pick_kernel": "HISA pick",
    "_refine_kernel": "HISA refine",
    "paged_mqa_logits<": "DeepGEMM paged_mqa_logits",
    "topk_persistent_cluster_kernel": "SGLang top-k, cluster",
    "topk_small_batch_cluster_kernel": "SGLang top-k, small batch",
    "topk_main_kernel": "SGLang top-k, main",
}
"""A part of the name of each kernel of a decode layer's indexer, and what it is called here."""
LAST = ("SGLang top-k, small batch", "SGLang top-k, main")
STEPS, TOKENS = 12, 1200
"""Steps that are profiled, and tokens of an answer: each request still decodes then."""


@dataclass(frozen=True)
class Kernel:
    """``begin`` and ``end`` in us."""

    name: str
    begin: float
    end: float


def read(trace: Path) -> list[Kernel]:
    """The indexer's kernels in a trace of SGLang's profiler, by their start."""
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    found = []
    for event in events:
        named = [known for part, known in KERNELS.items() if part in event["name"]]
        if event.get("cat") == "kernel" and named:
            found.append(Kernel(named[0], event["ts"], event["ts"] + event["dur"]))
    return sorted(found, key=lambda kernel: kernel.begin)


def layers(kernels: Sequence[Kernel]) -> list[list[Kernel]]:
    """Kernels of each layer, up to its top-k; only of the commonest kind: those of full decode steps."""
    every: list[list[Kernel]] = [[]]
    for kernel in kernels:
        every[-1].append(kernel)
        if kernel.name in LAST:
            every.append([])
    kinds = [tuple(kernel.name for kernel in layer) for layer in every if layer]
    usual = Counter(kinds).most_common(1)[0][0] if kinds else ()
    return [layer for layer in every if tuple(kernel.name for kernel in layer) == usual]


def timeline(found: Sequence[Sequence[Kernel]]) -> list[Kernel]:
    """Medians over the layers, in us since the first kernel of each began."""
    made = []
    for place in zip(*([(one, layer[0].begin) for one in layer] for layer in found)):
        begin = statistics.median(one.begin - first for one, first in place)
        end = statistics.median(one.end - first for one, first in place)
        made.append(Kernel(place[0][0].name, begin, end))
    return made


def shown(arm: str, found: Sequence[Sequence[Kernel]]) -> str:
    """The timeline of an arm, a line a kernel."""
    lines = [f"  {one.begin:7.1f} to {one.end:7.1f}  {one.name}" for one in timeline(found)]
    return "\n".join([f"{arm} ({len(found)} layers)", *lines])


def profile(server: ServerProcess, context: int, requests: int, folder: Path) -> None:
    """Write a trace of decode steps of ``requests`` that share a prompt of ``context`` tokens."""
    prefix = prompt(context, 1)
    server.generate(prefix, 2)
    with ThreadPoolExecutor(requests) as pool:
        prompts = [[*prefix, 3 + number, 4 + number] for number in range(requests)]
        answers = [pool.submit(server.generate, one, TOKENS) for one in prompts]
        time.sleep(0.02 * requests + 0.5)  # until all of them decode
        asked = {"output_dir": str(folder.resolve()), "num_steps": STEPS, "activities": ["GPU"]}
        server.request("/start_profile", asked)
        for answer in answers:
            answer.result()  # raises what the server refused


def main(argv: list[str] | None = None) -> int:
    """Profile the arms one after another and print their timelines; 1 where one shows none."""
    parser = tool("bench.server_layer", "--out OUT", __doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="model, logs and traces")
    parser.add_argument("--arms", default="stock,paper,balanced", help="as of hisa ab")
    parser.add_argument("--requests", type=int, default=64, help="that decode at once")
    parser.add_argument("--context", type=int, default=128 * 1024, help="tokens that they share")
    parser.add_argument("--layers", type=int, default=6, help="of the model")
    parser.add_argument("--render", action="store_true", help="only read the traces in DIR again")
    args = parser.parse_args(argv)
    arms = parse_arms(args.arms)
    folders = {arm.name: args.out / "traces" / f"{arm.name}-{args.requests}" for arm in arms}
    if not args.render:
        model = models.make_slice("v32-tp8-rank", args.out / "model-layers", None, args.layers)
        pool = args.context + args.requests * (TOKENS + 128)
        flags = [
            *gpu_flags(model, args.context + TOKENS + 128),
            *("--max-total-tokens", str(pool), "--max-running-requests", str(args.requests)),
            *("--cuda-graph-max-bs-decode", str(args.requests)),
        ]
        with ExitStack() as stack:
            servers = {}
            for arm in arms:
                env, log = child_env(environment(), arm.setting), args.out / f"layer-{arm.name}.log"
                servers[arm.name] = stack.enter_context(ServerProcess(flags, env=env, log=log))
            for name, server in servers.items():
                seconds = server.wait_ready(600)
                print(f"{name}: ready after {seconds:.0f} s", file=sys.stderr, flush=True)
            for name, server in servers.items():
                profile(server, args.context, args.requests, folders[name])
    print(json.dumps(provenance()))
    print(f"{args.requests} requests that share {args.context} tokens: medians, us since a layer began")
    complete = True
    for name, folder in folders.items():
        found = [one for trace in sorted(folder.glob("*.gz")) for one in layers(read(trace))]
        print(shown(name, found))
        complete = complete and bool(found)
    return int(not complete)


if __name__ == "__main__":
    sys.exit(main())
