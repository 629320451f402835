"""SGLang plugin of the tests: each rank keeps a digest of everything that its indexers chose.

With RANKS_DIFFER in the environment each rank claims to have a setting of its own instead.
"""

import hashlib
import json
import os
from pathlib import Path

import torch.distributed as dist


def register():
    from sglang_hisa import indexer
    from sglang_hisa.patches import agreement

    choose, facts = indexer.select, agreement.facts
    digest, calls = hashlib.sha256(), 0

    def select(*args, **kwargs):
        nonlocal calls
        chosen = choose(*args, **kwargs)
        digest.update(chosen.numpy().tobytes())
        calls += 1
        seen = {"calls": calls, "digest": digest.hexdigest()}
        (Path(os.environ["RANKS"]) / f"{dist.get_rank()}.json").write_text(json.dumps(seen))
        return chosen

    indexer.select = select
    if "RANKS_DIFFER" in os.environ:
        agreement.facts = lambda state: {**facts(state), "own setting": str(dist.get_rank())}
