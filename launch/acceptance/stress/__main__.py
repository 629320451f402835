"""Stress a server for minutes with the canary on, and add the scenes' rows to a record.

  python -m sglang_hisa.launch.acceptance.stress --out stress.json
  python -m sglang_hisa.launch.acceptance.stress --cpu --out stress.json \\
      --minutes 0.2
  python -m sglang_hisa.launch.acceptance.stress --out race.json \\
      --enable-hierarchical-cache --jitter 20 --plugin tests/plugins/jitter

Unknown arguments are passed to SGLang. The canary sees a race only if it lasts until the next check, so
the delays of --jitter (a test plugin makes them) should be longer than a forward pass.

Rows are added to --out, so a long run may consist of several calls, even at the same time. The exit code is
1 if a summary was wrong, a server died or an answer was incomplete.

scenes:
  radix    prompts from a random tree of shared prefixes, more than the server
           has slots
  abort    requests aborted in prefill and decode, others beside them
  pause    generation paused in place and with everything retracted, and
           continued
  warm     a prompt with an empty and with a full cache: KL(warm, cold) beside
           KL(cold, cold)
  retract  radix, with decode retracted every few forwards (SGLANG_TEST_RETRACT)
"""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from sglang_hisa.config import CANARY, environment
from sglang_hisa.launch.ab.plan import parse_tokens
from sglang_hisa.launch.acceptance.stress.record import StressRow
from sglang_hisa.launch.acceptance.stress.scenes import SCENES, Load
from sglang_hisa.launch.acceptance.stress.session import Stress
from sglang_hisa.launch.common import models, server
from sglang_hisa.launch.common.arms import parse_arm
from sglang_hisa.launch.common.help import tool
from sglang_hisa.launch.common.rows import RowRecord
from sglang_hisa.launch.common.serving import gpu_flags


def _setting(arm: str, canary: str) -> str | None:
    """``SGLANG_HISA`` of ``stock``, a preset or JSON, with the canary; no decode step that exceeds its budget
    is left to stock DSA. Raises ``ConfigError``."""
    return parse_arm(arm, {"canary": canary, "stock_decode_graphs": False}).setting


def _milliseconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1000:
        raise ValueError(text)
    return value


def _with_delays(base: Mapping[str, str], plugin: Path, milliseconds: float) -> dict[str, str]:
    return {**server.with_plugin(base, plugin), "JITTER_MS": str(milliseconds)}


def main(argv: list[str] | None = None) -> int:
    """Run the scenes; see the module docstring."""
    parser = tool("acceptance.stress", "--out FILE [SGLang flags...]", __doc__)
    parser.add_argument("--arms", nargs="+", default=["paper", "stock"], help="presets, JSON, stock")
    parser.add_argument(
        "--scenes",
        nargs="+",
        default=list(SCENES),
        choices=list(SCENES),
        metavar="SCENE",
        help="only these (default: all)",
    )
    parser.add_argument("--minutes", type=float, default=1.0, help="of each scene on each arm")
    parser.add_argument("--canary", choices=CANARY[1:], default="full", help="of the HISA arms")
    parser.add_argument(
        "--slice",
        default="v32-4l",
        help="model, on a GPU: a slice (v32-4l; its dummy weights make every KL 0), or small (own weights)",
    )
    parser.add_argument(
        "--longest", type=parse_tokens, default=None, metavar="TOKENS", help="longest prompt (default: 16k)"
    )
    parser.add_argument("--at-once", type=int, default=16, metavar="N", help="requests in flight")
    parser.add_argument(
        "--jitter",
        type=_milliseconds,
        default=0.0,
        metavar="MS",
        help="HISA arms: a random delay of up to MS before each store, selection, load and seal",
    )
    parser.add_argument(
        "--plugin",
        type=Path,
        metavar="DIR",
        help="the plugin that makes these delays: tests/plugins/jitter of a checkout",
    )
    parser.add_argument("--cpu", action="store_true", help="a tiny model on a CPU")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="record, logs beside it")
    args, more = parser.parse_known_args(argv)
    if args.jitter and not (args.plugin and (args.plugin / "hisa_jitter.py").is_file()):
        parser.error("--jitter needs --plugin DIR: the folder tests/plugins/jitter of a checkout")

    arms = {
        ("hisa" if text.startswith("{") else parse_arm(text).name): _setting(text, args.canary)
        for text in args.arms
    }
    longest = args.longest or (900 if args.cpu else 16 << 10)
    base = environment()
    if args.jitter:
        base = _with_delays(base, args.plugin, args.jitter)
    record = RowRecord(args.out, shlex.join(sys.argv), StressRow, key="id")
    with tempfile.TemporaryDirectory() as folder:
        if args.cpu:
            model = models.make_tiny(Path(folder) / "model")
            flags = [*server.cpu_flags(model, pool_tokens=4096), "--chunked-prefill-size", "256"]
            make_env = partial(server.cpu_env, base)
        else:
            small = args.slice == "small"
            make = models.make_small if small else partial(models.make_slice, args.slice)
            model = make(Path(folder) / "model")
            flags = gpu_flags(model, longest + 4096, dummy=not small)
            # A pool of a quarter of the working set: pages are evicted and reused all the time.
            flags += ["--max-total-tokens", str(max(4, args.at_once // 2) * longest)]
            make_env = partial(server.child_env, base, HF_HUB_OFFLINE="1")
        stress = Stress(
            flags=[*flags, *more],
            make_env=make_env,
            arms=arms,
            load=Load(longest, args.at_once),
            seconds=60 * args.minutes,
            logs=args.out.parent,
            model="tiny" if args.cpu else args.slice,
            record=record,
            tell=lambda text: print(text, flush=True),
        )
        return stress.play(args.scenes)


if __name__ == "__main__":
    sys.exit(main())
