"""SGLang's flags as a user typed them."""

from __future__ import annotations

from collections.abc import Sequence


def value_of(flags: Sequence[str], *names: str) -> str | None:
    """The value of the last of ``flags`` that has one of ``names``; empty for a flag without a value."""
    found = None
    for here, after in zip(flags, [*flags[1:], ""]):
        name, equals, value = here.partition("=")
        if name in names:
            found = value if equals else "" if after.startswith("--") else after
    return found
