"""The released SGLangs whose sources HISA knows: the one place that names them.

What HISA does is decided by SGLang's source (:mod:`.contract`), never by these names. They serve messages,
pages and tests.
"""

RELEASES = ("0.5.17", "0.5.18", "0.5.19", "0.5.20", "0.5.21", "0.5.22", "0.5.23")
OLDEST, NEWEST = RELEASES[0], RELEASES[-1]
TESTED = (OLDEST, NEWEST)
"""Those with which all tests are run."""


def since(first: str) -> tuple[str, ...]:
    """The releases from ``first`` on."""
    return RELEASES[RELEASES.index(first) :]
