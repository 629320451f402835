"""The words of a server that refuses. Only the standard library: the load generator reads this file."""

from __future__ import annotations

import json
from typing import Any


def words(error: str) -> str:
    """What a refusal says: the message in it where it is JSON, else its last line."""
    begin = error.find("{")
    if begin >= 0:
        try:
            return message(json.loads(error[begin:])) or error
        except ValueError:
            pass
    return (error.strip().splitlines() or [""])[-1]


def message(data: Any) -> str | None:
    """The words of a refusal, OpenAI's (``{"error": {"message": ...}}``) or SGLang's; None of an answer."""
    if not isinstance(data, dict):
        return None
    error = data.get("error") or (data if data.get("object") == "error" else None)
    if isinstance(error, dict):
        error = error.get("message") or json.dumps(error)
    return None if error is None else str(error)
