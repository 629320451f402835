"""HiCache storage: pages are found by servers that compute the same, and by no other."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_hisa.config import parse
from sglang_hisa.launch.common.server import cpu_env
from sglang_hisa.patches import contract, runtime, storage
from tests.history.sglang_cache import importable

PAGES = 5
STOCK = '{"prefill_tokens": 0, "decode_tokens": 0}'


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("SGLANG_HICACHE_FILE_BACKEND_STORAGE_DIR", str(tmp_path))
    with importable():
        yield


def chain(count: int = PAGES, name: str = "") -> list[str]:
    """Hashes of a prompt's pages as SGLang makes them: each holds the one before it."""
    found = [hashlib.sha256(name.encode()).hexdigest()]
    while len(found) < count:
        found.append(hashlib.sha256(found[-1].encode()).hexdigest())
    return found


def backend(setting: str | None) -> Any:
    """SGLang's file backend as a server with ``setting`` gets it; None: without HISA."""
    from sglang.srt.mem_cache.hicache_storage import HiCacheStorageConfig
    from sglang.srt.mem_cache.storage.backend_factory import StorageBackendFactory

    ranks = {f"{name}_rank": 0 for name in ("tp", "pp", "attn_cp")}
    sizes = {f"{name}_size": 1 for name in ("tp", "pp", "attn_cp")}
    config = HiCacheStorageConfig(
        **ranks,
        **sizes,
        is_mla_model=True,
        enable_storage_metrics=False,
        is_page_first_layout=False,
        model_name="org/model",
    )
    plain = StorageBackendFactory.create_backend("file", config, None)
    if setting is None:
        return plain
    runtime.start(runtime.Runtime(parse(setting), contract.installed_version() or "", 1))
    made = storage.after_create(plain, StorageBackendFactory, "file", config, None)
    return plain if made is None else made


class HostPool:
    """Pages of one byte, as a backend reads and writes them."""

    page_size = 1

    def __init__(self, values: list[int]) -> None:
        self.rows = torch.tensor(values, dtype=torch.uint8)

    def get_data_page(self, index: int, flat: bool = True) -> torch.Tensor:
        return self.rows[index : index + 1]

    def get_dummy_flat_data_page(self) -> torch.Tensor:
        return torch.zeros(1, dtype=torch.uint8)

    def set_from_flat_data_page(self, index: int, page: torch.Tensor) -> None:
        self.rows[index] = page[0]


def transfer(keys: list[str]) -> Any:
    from sglang.srt.mem_cache.hicache_storage import PoolName, PoolTransfer

    return PoolTransfer(PoolName.INDEXER, host_indices=torch.arange(len(keys)), keys=keys)


def write(store: Any, keys: list[str]) -> None:
    """KV and index keys of each page: page ``i`` holds ``i + 1``."""
    pool = HostPool([i + 1 for i in range(len(keys))])
    store.register_mem_host_pool_v2(pool, transfer([]).name)
    assert store.batch_set(keys, [pool.get_data_page(i) for i in range(len(keys))])
    assert list(store.batch_set_v2([transfer(keys)]).values()) == [[True] * len(keys)]


def found(store: Any, keys: list[str]) -> tuple[int, int, list[int]]:
    """Pages that the backend says it has, by both interfaces, and the index keys it then reads."""
    has = store.batch_exists(keys)
    both = store.batch_exists_v2(keys, [transfer(list(keys))]).kv_hit_pages
    pool = HostPool([0] * len(keys))
    store.register_mem_host_pool_v2(pool, transfer([]).name)
    store.batch_get_v2([transfer(list(keys))])
    return has, both, pool.rows.tolist()


ALL = (PAGES, PAGES, [1, 2, 3, 4, 5])
NONE = (0, 0, [0] * PAGES)


@pytest.mark.parametrize(
    ("writer", "reader", "expected"),
    [
        (None, None, ALL),
        ("paper", None, NONE),
        (None, "paper", NONE),
        ("paper", "balanced", NONE),
        ("paper", "paper", ALL),
        ("paper", '{"preset": "paper", "prefill_tokens": 8256}', NONE),
        ("paper", '{"preset": "paper", "canary": "full", "audit": 0.5}', ALL),
        (STOCK, None, ALL),
        (None, STOCK, ALL),
    ],
)
def test_who_finds_the_pages_of_whom(writer: str | None, reader: str | None, expected: Any) -> None:
    keys = chain()
    write(backend(writer), keys)
    assert found(backend(reader), keys) == expected


def test_pages_of_a_prompt_keep_their_order_and_prompts_their_difference() -> None:
    write(backend("paper"), chain(3))
    again = backend("paper")
    assert found(again, chain(5)) == (3, 3, [1, 2, 3, 0, 0])
    assert found(again, chain(5, "another prompt")) == (0, 0, [0] * 5)


def test_keys_keep_their_form() -> None:
    """Backends may read a key as a hash and a suffix (0.5.17 adds ``.draft`` itself)."""
    store, key = backend("paper"), chain(1)[0]
    named = store.key(key)
    assert len(bytes.fromhex(named)) == 32 and named != key
    assert store.key(f"{key}.draft") == f"{named}.draft"


def test_what_sglang_reads_again_is_not_changed() -> None:
    keys = chain()
    kept, sent = list(keys), transfer(keys)
    write(store := backend("paper"), keys)
    store.batch_get_v2([sent])
    assert keys == kept and sent.keys == kept


def test_every_method_that_takes_keys_is_covered() -> None:
    from sglang.srt.mem_cache.hicache_storage import HiCacheStorage, HiCacheStorageExtraInfo

    takes = {
        name
        for name, method in inspect.getmembers(HiCacheStorage, inspect.isfunction)
        if {"key", "keys", "transfers"} & inspect.signature(method).parameters.keys()
    }
    assert takes == storage.KEYED

    heard: list[Any] = []
    record = SimpleNamespace(**{name: lambda *a, **k: heard.append((a, k)) for name in takes}, clear=len)
    store, keys = storage.NamedKeys(record, "1234"), chain()
    named = [store.key(key) for key in keys]
    for name in sorted(takes):
        getattr(store, name)(keys[0], keys, extra_info=HiCacheStorageExtraInfo(prefix_keys=keys))
        (first, several), more = heard.pop()
        assert (first, several, more["extra_info"].prefix_keys) == (named[0], named, named), name
    assert store.clear is len and not hasattr(store, "close"), "all else is the backend's own"


def test_the_factory_that_sglang_uses_is_patched() -> None:
    """In a process that SGLang's plugins were loaded into."""
    script = """
from sglang.srt.plugins import load_plugins
load_plugins()
from sglang.srt.mem_cache.hicache_storage import HiCacheStorageConfig
from sglang.srt.mem_cache.storage import StorageBackendFactory
config = HiCacheStorageConfig(
    tp_rank=0, tp_size=1, pp_rank=0, pp_size=1, attn_cp_rank=0, attn_cp_size=1, is_mla_model=True,
    enable_storage_metrics=False, is_page_first_layout=False, model_name="m",
)
print(type(StorageBackendFactory.create_backend("file", config, None)).__name__)
"""
    for setting, name in (("paper", "NamedKeys"), (STOCK, "HiCacheFile"), (None, "HiCacheFile")):
        argv = [sys.executable, "-c", script]
        done = subprocess.run(
            argv, env=cpu_env(os.environ, setting), capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.split()[-1] == name


def test_the_receipt_has_the_fingerprint() -> None:
    version = contract.installed_version() or ""
    receipts = [runtime.Runtime(parse(text), version, 1).receipt() for text in ("paper", STOCK)]
    assert json.loads(json.dumps(receipts[0]))["fingerprint"] == parse("paper").fingerprint()
    assert receipts[1]["fingerprint"] is None
