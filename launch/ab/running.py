"""Arms that already run: servers that someone else started, compared under the same rules."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from sglang_hisa.config import PRESETS
from sglang_hisa.launch.common.arms import STOCK, Arm
from sglang_hisa.launch.common.receipts import Said
from sglang_hisa.launch.common.server import Progress, ServerFailed, ServerProcess, fetch
from sglang_hisa.launch.load.plan import local_url


class RunningServer(ServerProcess):
    """A server of this machine that is neither started nor ended here, and whose log is not known.

    Args:
        url: as :func:`local_url` gives it.
        log: an empty file in its log's place.
    """

    def __init__(self, url: str, log: Path) -> None:
        super().__init__((), env={}, log=log, port=int(url.rpartition(":")[2]))
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("")

    def start(self) -> None:
        """It runs."""

    def stop(self, grace: float = 5) -> None:
        """It is left running."""

    def wait_ready(self, timeout: float = 600, progress: Progress | None = None, every: float = 1.0) -> float:
        """0 seconds. Raises ``ServerFailed``: it does not answer."""
        try:
            fetch(f"{self.url}/get_model_info", timeout=20)
        except OSError as error:
            raise ServerFailed(f"no server answers at {self.url} ({error})") from None
        return 0.0


def parse(text: str) -> dict[str, str]:
    """``stock=http://127.0.0.1:30000,paper=http://127.0.0.1:30001`` -> URL by name. Raises ``ValueError``."""
    found: dict[str, str] = {}
    for part in text.split(","):
        name, equals, url = part.strip().partition("=")
        if not (name and equals):
            raise ValueError(f"--urls {part!r}: expected NAME=http://127.0.0.1:PORT")
        if name in found:
            raise ValueError(
                f"--urls: {name} is named twice; other names tell two servers of one preset apart"
            )
        found[name] = local_url(url)
    if len(found) < 2 or len({url.rpartition(":")[2] for url in found.values()}) < len(found):
        raise ValueError("--urls needs two servers or more; the first is the baseline")
    return found


def ask(urls: Mapping[str, str]) -> dict[str, Said]:
    """``/server_info`` of each. Raises ``ValueError``: one does not answer, or is not SGLang's."""
    found = {}
    for name, url in urls.items():
        try:
            found[name] = json.loads(fetch(f"{url}/server_info", timeout=20))
            _ = found[name]["internal_states"], found[name]["model_path"]
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"arm {name}: no SGLang server answers at {url} ({error})") from None
    return found


def arms(infos: Mapping[str, Said]) -> tuple[Arm, ...]:
    """What each serves, as its schedulers' receipts say.

    Raises:
        ValueError: an arm named ``stock`` serves HISA, or one named as a preset something else.
    """
    found = []
    for name, info in infos.items():
        receipts = [state.get("sglang_hisa") for state in info["internal_states"]]
        served = {receipt["preset"] if receipt and receipt["active"] else STOCK for receipt in receipts}
        if len(served) != 1:
            raise ValueError(f"arm {name}: its schedulers serve {', '.join(sorted(served))}")
        (preset,) = served
        if name in (STOCK, *PRESETS) and name != preset:
            raise ValueError(f"arm {name}: the server at that address serves {preset}")
        found.append(Arm(name, None if preset == STOCK else json.dumps({"preset": preset})))
    return tuple(found)


def flags(info: Said) -> list[str]:
    """Of the server's flags those that say how to measure it."""
    out = ["--model-path", str(info["model_path"])]
    if info.get("enable_return_indexer_topk"):
        out.append("--enable-return-indexer-topk")
    if storage := info.get("hicache_storage_backend"):
        out += ["--hicache-storage-backend", str(storage)]
    return out
