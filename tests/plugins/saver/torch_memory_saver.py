"""Stands for the package of this name, which needs CUDA: released memory that comes back with other bytes.

SGLang's own adapter (``--enable-memory-saver``) calls it. Everything that SGLang allocates in a region of the
KV cache is noted: KV, the tables of requests, in 0.5.23 index keys. ``resume`` fills it with what fresh
memory may hold, row by row random bytes and 0xFF: NaN as a key, scale or KV, -1 as a slot. Index keys and
HISA's summaries are filled in any case, as if they had been released, too.
"""

from contextlib import contextmanager, nullcontext

import torch
from torch.overrides import TorchFunctionMode

KV_CACHE = "kv_cache"


class _Note(TorchFunctionMode):
    def __init__(self, noted):
        self.noted = noted

    def __torch_function__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if function in (torch.zeros, torch.empty):
            self.noted.append(made)
        return made


class _Saver:
    enabled = True

    def __init__(self):
        self.noted, self.random = [], torch.Generator().manual_seed(0)

    @contextmanager
    def region(self, tag, enable_cpu_backup=False):
        with _Note(self.noted) if tag == KV_CACHE else nullcontext():
            yield

    def pause(self, tag):
        pass

    def resume(self, tag):
        from sglang_hisa.patches import runtime

        if tag != KV_CACHE:
            return
        print(f"resumed: {sorted({tuple(t.shape) for t in self.noted})}", flush=True)
        layers = [layer for pool in runtime.current().pools for layer in pool.layers]
        for tensor in (*self.noted, *(t for la in layers for t in (la.index_k, la.keys, la.scales))):
            rows = tensor.view(torch.uint8).view(tensor.shape[0], -1)
            rows.random_(generator=self.random)
            rows[::2] = 0xFF

    def cuda_graph(self, **kwargs):
        return nullcontext()

    def disable(self):
        return nullcontext()


def configure_subprocess():
    return nullcontext()


torch_memory_saver = _Saver()
