"""What is kept of each load and request; times in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sglang_hisa.launch.common.steady import Steady
from sglang_hisa.launch.common.typed import null


@dataclass(frozen=True)
class Request:
    """One request; its times are None where its first token was not seen.

    ``itl`` is the 99th percentile of the request's own gaps between tokens, ``tpot`` their mean; the answer
    ends (``e2e``) with its last token. ``input``, ``output`` and ``cached`` are tokens.
    """

    ttft: float | None
    itl: float | None
    tpot: float | None
    e2e: float | None
    input: int
    output: int
    cached: int | None
    error: str | None

    def time(self, name: str) -> float | None:
        """The time ``name`` of ``plan.SLOS``."""
        return {"ttft": self.ttft, "itl": self.itl, "tpot": self.tpot, "e2e": self.e2e}[name]

    def meets(self, slo: Mapping[str, float]) -> bool:
        """Whether it meets every limit; without a first token it meets none."""
        times = ((self.time(name), limit) for name, limit in slo.items())
        return self.ttft is not None and all(time is not None and time <= limit for time, limit in times)


@dataclass(frozen=True)
class Kept:
    """One load: its requests, what decode took at steady state, and the rate that came (``arrived``)."""

    load: float
    duration_s: float
    requests: tuple[Request, ...]
    retractions: int | None = null()
    """None: the server does not say."""
    steady: Steady | None = null()
    """None of rates and conversations, and where the requests never all decoded at once."""
    arrived: float | None = null()

    @property
    def answered(self) -> list[Request]:
        """Requests that did not fail."""
        return [request for request in self.requests if request.error is None]

    @property
    def failed(self) -> list[str]:
        """Why each of the others did."""
        return [request.error for request in self.requests if request.error is not None]
