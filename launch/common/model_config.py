"""A model's config.json before anything loads: from its folder, the Hugging Face cache, or the hub."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from pathlib import Path
from typing import Any

from sglang_hisa.config import environment

Config = dict[str, Any]
"""A config.json, whose fields are Hugging Face's."""
_PATIENCE = 8.0
"""Seconds for the hub; a server asks it again, with as much patience as it likes."""


class ModelProblem(ValueError):
    """There is no such model; ``fix`` says what to do."""

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(problem)
        self.fix = fix


def _is_path(model: str) -> bool:
    """Whether ``model`` cannot be a repository's name (``owner/name`` or ``name``)."""
    return model.startswith(("/", ".", "~")) or model.count("/") > 1 or Path(model).exists()


def _from_folder(folder: Path) -> Config | None:
    if not folder.is_dir():
        if folder.is_file():  # a GGUF file, say: SGLang's to judge
            return None
        raise ModelProblem(f"there is no folder {folder}", "give a model's folder or Hugging Face name")
    path = folder / "config.json"
    if not path.is_file():
        if (folder / "params.json").is_file():  # Mistral's format
            return None
        raise ModelProblem(
            f"{folder} has no config.json", "give the folder that holds config.json and weights"
        )
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ModelProblem(f"{path} is not readable JSON ({error})", "download the model again") from None
    if not isinstance(config, dict):
        raise ModelProblem(f"{path} is not a JSON object", "download the model again")
    return config


def _download(model: str) -> str | None:
    """Path of config.json in the cache, fetched if need be; None where the hub gives no answer."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import RepositoryNotFoundError

    cached = try_to_load_from_cache(model, "config.json")
    if isinstance(cached, str):
        return cached
    try:
        return hf_hub_download(model, "config.json", etag_timeout=3)
    except RepositoryNotFoundError:
        raise ModelProblem(
            f"Hugging Face has no model {model}, or it is private or gated",
            "correct the name, give a folder, or log in: hf auth login",
        ) from None
    except Exception:  # offline, a proxy, no such file: cannot be told from here
        return None


def read(model: str) -> Config | None:
    """The model's config.json; None where it cannot be read from here (offline, other hubs and formats).

    Raises:
        ModelProblem: there is no such folder or repository, or its config.json is broken.
    """
    if "://" in model or environment().get("SGLANG_USE_MODELSCOPE", "").lower() in ("1", "true"):
        return None
    if _is_path(model):
        return _from_folder(Path(model).expanduser())
    pool = ThreadPoolExecutor(1)
    try:
        path = pool.submit(_download, model).result(_PATIENCE)
    except (Late, ImportError):
        return None
    except ValueError as error:
        if isinstance(error, ModelProblem):
            raise
        raise ModelProblem(f"{model} is neither a folder nor a Hugging Face name", "correct MODEL") from None
    finally:
        pool.shutdown(wait=False)
    return None if path is None else json.loads(Path(path).read_text())
