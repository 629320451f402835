"""An arm's server, from its start to the proof that it serves what the arm's name says."""

from __future__ import annotations

from typing import Any

from sglang_hisa.launch.ab import validity
from sglang_hisa.launch.common import ends
from sglang_hisa.launch.common.arms import Arm
from sglang_hisa.launch.common.progress import ProgressCallback
from sglang_hisa.launch.common.server import ServerFailed, ServerProcess


def new_facts(arm: Arm) -> dict[str, Any]:
    """What a record says of an arm before its server has started."""
    return {
        "setting": arm.setting,
        "receipt": None,
        "kv_tokens": None,
        "summary_bytes": None,
        "rows": None,
        "version": None,
        "starts_s": [],
        "retractions": 0,
        "log_tail": None,
        "killed": None,
    }


def started(
    arm: Arm,
    server: ServerProcess,
    facts: dict[str, Any],
    baseline: dict[str, Any] | None,
    timeout: float,
    tell: ProgressCallback,
) -> tuple[dict[str, Any], list[str]]:
    """Wait for a server that was started, and fill ``facts``.

    Args:
        baseline: ``/server_info`` of the baseline; None where this arm is it.
        timeout: seconds.

    Returns:
        Its ``/server_info``, and why the arm cannot be compared (empty: it can).

    Raises:
        ServerFailed: it ended or was not ready in time; ``facts`` have the end of its log.
    """
    tell(f"{arm.name}: starting (log: {server.log})")
    try:
        seconds = server.wait_ready(timeout, lambda s, line: tell(f"{arm.name}: {s:.0f} s {line}"), every=5)
    except ServerFailed as error:
        facts |= ends.explain(server, arm.name, error)[1]
        raise
    info: dict[str, Any] = server.request("/server_info")
    receipts = [state.get("sglang_hisa") for state in info["internal_states"]]
    facts["starts_s"].append(round(seconds, 1))
    facts["version"] = info["version"]
    facts["kv_tokens"] = info["max_total_num_tokens"]
    facts["receipt"] = receipts[0]
    facts["summary_bytes"] = sum(receipt["summary_bytes"] for receipt in receipts if receipt) or None
    problems = validity.arm_problems(arm.name, arm.setting, receipts)
    problems += validity.flag_problems(info if baseline is None else baseline, info, arm.name)
    if not problems:
        tell(f"{arm.name}: ready after {seconds:.0f} s, {facts['kv_tokens']} KV tokens")
    return info, problems
