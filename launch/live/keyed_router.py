"""sglang-router with the API key of its servers: ``python -m sglang_hisa.launch.live.keyed_router FLAGS``.

sglang-router takes the key from its command line alone, which every user of the machine can read (``ps``).
Here it comes from the environment, which only the owner can.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sglang_hisa import config


def main(flags: Sequence[str]) -> None:
    """Route until a signal. Without a key everyone is served."""
    from sglang_router.launch_router import launch_router, parse_router_args

    args = parse_router_args(list(flags))
    args.api_key = config.api_key() or None
    launch_router(args)


if __name__ == "__main__":
    main(sys.argv[1:])
