"""An arm's server, from its start to the proof that it serves what the arm's name says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from sglang_hisa.launch.ab import validity
from sglang_hisa.launch.ab.record import ArmFacts
from sglang_hisa.launch.common import ends
from sglang_hisa.launch.common.arms import Arm
from sglang_hisa.launch.common.progress import ProgressCallback
from sglang_hisa.launch.common.receipts import Said
from sglang_hisa.launch.common.server import ServerFailed, ServerProcess

F = TypeVar("F", bound=ArmFacts)


def failed(arm: Arm, server: ServerProcess, arms: dict[str, F], error: Exception) -> ServerFailed:
    """``error`` with the arm, and the server's end if it has ended; ``arms`` gets the end of its log."""
    said, facts = ends.explain(server, f"arm {arm.name}", error)
    arms[arm.name] = replace(arms[arm.name], log_tail=facts["log_tail"], killed=facts["killed"])
    return ServerFailed(said)


def started(
    arm: Arm,
    servers: Mapping[Arm, ServerProcess],
    arms: dict[str, F],
    baseline: Said | None,
    timeout: float,
    tell: ProgressCallback,
) -> tuple[Said, list[str]]:
    """Wait for an arm's server, which was started; ``arms`` gets what it says of itself.

    Args:
        servers: all that run side by side; if another one ends, this one is not waited for.
        baseline: ``/server_info`` of the baseline; None where this arm is it.
        timeout: seconds.

    Returns:
        Its ``/server_info``, and why the arm cannot be compared (empty: it can).

    Raises:
        ServerFailed: it, or one beside it, ended or was not ready in time; ``arms`` has the end of that log.
    """
    server = servers[arm]
    tell(f"{arm.name}: starting (log: {server.log})")
    waited_for = arm

    def waiting(seconds: float, line: str) -> None:
        nonlocal waited_for
        tell(f"{arm.name}: {seconds:.0f} s {line}")
        for other, process in servers.items():
            if process.exit_code() is not None:
                waited_for = other
                process.wait_ready(timeout)  # raises how it ended

    try:
        seconds = server.wait_ready(timeout, waiting, every=5)
    except ServerFailed as error:
        failed(waited_for, servers[waited_for], arms, error)
        raise
    info: Said = server.request("/server_info")
    receipts = [state.get("sglang_hisa") for state in info["internal_states"]]
    facts = arms[arm.name]
    arms[arm.name] = replace(
        facts,
        starts_s=(*facts.starts_s, round(seconds, 1)),
        version=info["version"],
        kv_tokens=info["max_total_num_tokens"],
        receipt=receipts[0],
        summary_bytes=sum(receipt["summary_bytes"] for receipt in receipts if receipt) or None,
    )
    problems = validity.arm_problems(arm.name, arm.setting, receipts)
    problems += validity.flag_problems(info if baseline is None else baseline, info, arm.name)
    if not problems:
        tell(f"{arm.name}: ready after {seconds:.0f} s, {info['max_total_num_tokens']} KV tokens")
    return info, problems
