"""A real SGLang server as a child process that cannot outlive its owner, and a small client of it."""

from __future__ import annotations

import atexit
import ctypes
import functools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.error import HTTPError

from sglang_hisa.launch.common import claims, made_up, session
from sglang_hisa.launch.common.ends import how
from sglang_hisa.launch.common.refusal import message, words

if TYPE_CHECKING:
    from sglang_hisa.launch.common.receipts import Said

Progress = Callable[[float, str], None]
"""Called now and then while a server starts: (seconds so far, last line of its log)."""

SGLANG = "sglang.launch_server"
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)  # loaded here: a forked child must not take the loader's lock
_LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Opens URLs of this machine, whatever proxy the environment names."""


def _open(url: str, body: Mapping[str, Any] | None, timeout: float) -> Any:
    from sglang_hisa.launch.common import auth  # not above: the guard runs this file alone

    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **auth.headers()})
    return _LOCAL.open(request, timeout=timeout)


def fetch(url: str, body: Mapping[str, Any] | None = None, timeout: float = 600) -> str:
    """GET, or POST of a JSON body, from a server of this machine; the text of the answer.

    Raises:
        OSError: no answer, or a refusal (``urllib.error.HTTPError``, with the server's own words).
    """
    try:
        with _open(url, body, timeout) as answer:
            text: str = answer.read().decode()
    except HTTPError as error:
        # The reason beside the code is that of the code; why this request was refused is in the body.
        error.msg = f"{error.msg}: {words(error.read().decode(errors='replace'))}".rstrip(": ")
        raise
    return text


def _generation(prompt: str | Sequence[int], max_new_tokens: int, **fields: Any) -> Mapping[str, Any]:
    """Body of a greedy ``/generate``."""
    key = "text" if isinstance(prompt, str) else "input_ids"
    sampling = {"max_new_tokens": max_new_tokens, "temperature": 0, "ignore_eos": True}
    value = prompt if isinstance(prompt, str) else list(prompt)
    return {key: value, "sampling_params": sampling, **fields}


class ServerFailed(RuntimeError):
    """A server did not start or died; the message holds its exit code and the end of its log."""


_RESERVED: list[socket.socket] = []


def _reserve(port: int) -> bool:
    """Whether ``port`` is now this process's, as long as it lives, among all that use this module.

    A server binds its port many seconds after it was chosen; another run must not choose it meanwhile.
    """
    if (name := claims.hold(f"port-{port}")) is None:
        return False
    _RESERVED.append(name)
    return True


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on, and that no other call has given, in any process.

    Below the range from which the kernel takes the ports of outgoing connections (32768 on, by default):
    a server binds its port seconds later, and a client must not have got it in between.
    """
    for port in random.sample(range(20000, 32000), 200):
        if not _reserve(port):  # first: a port tried by two at once would look taken to one of them
            continue
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise ServerFailed("no free port of 127.0.0.1 between 20000 and 32000")


def check_free(port: int, patience: float = 2) -> None:
    """Raises ``ServerFailed`` where another server listens: it would answer in place of ours.

    Asked again for ``patience`` seconds: a child that another thread forks holds this process's sockets,
    the one that :func:`free_port` tried the port with among them, until it has become another program.
    """
    deadline = time.monotonic() + patience
    while True:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
                return
            except OSError as error:
                if time.monotonic() > deadline:
                    raise ServerFailed(f"port {port} of 127.0.0.1 is taken ({error.strerror})") from None
        time.sleep(0.05)


def die_with(owner: int) -> None:
    # kill -9 of the owner must not leave a server behind; the kernel then kills this child too.
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != owner:  # it died before the line above
        os._exit(1)


def _start_guard(leader: int) -> subprocess.Popen[bytes]:
    """A process that ends the session once this process is gone, however it went.

    SGLang's workers die with their parent only after 10 seconds of imports; until then nothing else would
    end them.
    """
    argv = [sys.executable, "-I", session.__file__, str(leader)]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, start_new_session=True)


class ServerProcess:
    """``python -m sglang.launch_server`` in its own session (context manager).

    Args:
        flags: SGLang's flags without host and port.
        env: the child's whole environment (see :func:`child_env`).
        log: file that takes its output.
        port: 0 picks a free one.
        python: interpreter of the environment that has SGLang.
        module: another server that answers as SGLang does, such as its router.
        host: what it listens on; this process asks it at 127.0.0.1.
    """

    def __init__(
        self,
        flags: Sequence[str],
        *,
        env: Mapping[str, str],
        log: Path,
        port: int = 0,
        python: str = sys.executable,
        module: str = SGLANG,
        host: str = "127.0.0.1",
    ) -> None:
        self.port = port or free_port()
        self.log = log
        own = ["--host", host, "--port", str(self.port)]
        if module == SGLANG and not any(flag.startswith("--nccl-port") for flag in flags):
            # SGLang's own choice may be taken before its workers, many seconds later, listen there.
            own = ["--nccl-port", str(free_port()), *own]
        self.argv = [python, "-m", module, *flags, *own]
        self._env = made_up.spread_env(env, flags)
        self._begin = 0.0
        self._child: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the child; returns at once. It dies with the calling *thread*, as Linux defines it.

        Raises:
            ServerFailed: the port is taken.
        """
        if self._child is not None:
            raise RuntimeError("this server is already started")
        check_free(self.port)
        self._begin = time.monotonic()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self._child = subprocess.Popen(
                self.argv,
                env=self._env,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=functools.partial(die_with, os.getpid()),
            )
        self._guard = _start_guard(self._child.pid)
        atexit.register(self.stop)

    def tail(self, lines: int = 40) -> str:
        """The end of the log."""
        if not self.log.is_file():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def exit_code(self) -> int | None:
        """Exit code if the child has ended."""
        return None if self._child is None else self._child.poll()

    def wait_ready(self, timeout: float = 600, progress: Progress | None = None, every: float = 1.0) -> float:
        """Wait until the model is served; returns the seconds since :meth:`start`.

        ``progress`` is called after each ``every`` seconds.

        Raises:
            ServerFailed: it exited, or was not ready ``timeout`` seconds after its start.
        """
        told = every
        while True:
            elapsed = time.monotonic() - self._begin
            code = self.exit_code()
            if code is not None:
                raise ServerFailed(f"the server {how(code, self.tail())}\n{self.tail()}")
            if progress is not None and elapsed >= told:
                progress(elapsed, self.tail(1))
                told = elapsed + every
            try:
                # Not /health: it answers only after a generation has worked.
                fetch(f"{self.url}/get_model_info", timeout=5)
                return elapsed
            except urllib.error.HTTPError as error:
                if error.code in (401, 403):
                    from sglang_hisa.launch.common import auth

                    raise ServerFailed(f"the server refuses the API key: {auth.HOW}") from None
            except OSError:
                pass  # not listening yet; the exit code and the timeout bound the wait
            if elapsed > timeout:
                raise ServerFailed(f"the server was not ready after {timeout:.0f} s\n{self.tail()}")
            time.sleep(0.25)

    def ask_to_end(self) -> None:
        """SIGTERM; returns at once. :meth:`stop` waits and insists."""
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()

    def stop(self, grace: float = 5) -> None:
        """End the child and all its workers; the port is free afterwards. Safe to call twice.

        SGLang can hang on SIGTERM for minutes, so SIGKILL follows after ``grace`` seconds.
        """
        child = self._child
        if child is None:
            return
        atexit.unregister(self.stop)
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(grace)
            except subprocess.TimeoutExpired:
                child.kill()
        session.end(child.pid)
        child.wait(5)
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.stdin.close()
            self._guard.wait(20)
        self._child = self._guard = None

    def request(self, path: str, body: Mapping[str, Any] | None = None, timeout: float = 600) -> Any:
        """GET, or POST of a JSON body; the decoded JSON answer (text where it is not JSON).

        Raises:
            urllib.error.HTTPError: the server refused the request.
        """
        text = fetch(self.url + path, body, timeout)
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return text

    def generate(
        self, prompt: str | Sequence[int], max_new_tokens: int = 16, **fields: Any
    ) -> dict[str, Any]:
        """Greedy ``/generate`` of a text or token ids; ``fields`` go into the request."""
        return dict(self.request("/generate", _generation(prompt, max_new_tokens, **fields)))

    def stream(self, prompt: str | Sequence[int], max_new_tokens: int = 16) -> Iterator[dict[str, Any]]:
        """As :meth:`generate`; the answer so far, each time that it has grown.

        Raises:
            OSError: the server refused the request, with status 200 too.
        """
        body = _generation(prompt, max_new_tokens, stream=True)
        with _open(f"{self.url}/generate", body, 600) as answer:
            for line in answer:
                if line.startswith(b"data: {"):
                    data = json.loads(line.removeprefix(b"data: "))
                    if (refusal := message(data)) is not None:
                        raise OSError(refusal)
                    yield data

    def receipts(self) -> list[Said | None]:
        """HISA's receipt of each scheduler in ``/server_info``; None where it serves stock DSA."""
        states = self.request("/server_info")["internal_states"]
        return [state.get("sglang_hisa") for state in states]

    def flush_cache(self) -> None:
        """Drop the radix cache, once the scheduler is done with what it has answered (at most a minute).

        Raises:
            urllib.error.HTTPError: it is still busy.
        """
        self.request("/flush_cache?timeout=60", {})


def child_env(base: Mapping[str, str], hisa: str | None, **extra: str) -> dict[str, str]:
    """``base`` with ``SGLANG_HISA`` set to ``hisa`` (removed when None: stock SGLang) and ``extra``."""
    env = {key: value for key, value in base.items() if key != "SGLANG_HISA"}
    if hisa is not None:
        env["SGLANG_HISA"] = hisa
    return {**env, **extra}


def with_plugin(base: Mapping[str, str], folder: Path) -> dict[str, str]:
    """``base`` with ``folder``, which holds an SGLang plugin, at the end of the path of its Python."""
    path = os.pathsep.join(part for part in (base.get("PYTHONPATH"), str(folder.resolve())) if part)
    return {**base, "PYTHONPATH": path}


def cpu_flags(model: str | Path, *, context: int = 4096, pool_tokens: int = 8192) -> list[str]:
    """SGLang's flags for a DSA model on a CPU (demo and tests)."""
    return [
        *("--model-path", str(model), "--device", "cpu", "--context-length", str(context)),
        *("--attention-backend", "dsa", "--dsa-prefill-backend", "flashmla_sparse"),
        *("--dsa-decode-backend", "flashmla_sparse"),
        *("--dsa-topk-backend", "sgl-kernel", "--kv-cache-dtype", "bfloat16"),
        *("--page-size", "64", "--mem-fraction-static", "0.2", "--max-total-tokens", str(pool_tokens)),
        *("--max-running-requests", "8", "--skip-server-warmup", "--grammar-backend", "none"),
        "--sleep-on-idle",  # a scheduler that polls would take a core from the servers beside it
    ]


def cpu_env(base: Mapping[str, str], hisa: str | None, *, fused: bool = False) -> dict[str, str]:
    """Environment for a DSA model on a CPU: the stand-ins of :mod:`sglang_hisa.patches.cpu`.

    ``fused``: top-k gives physical KV slots, as on a GPU; otherwise positions in the request, which
    ``--enable-return-indexer-topk`` then shows. Greedy text is the same.
    """
    import sglang_hisa.patches.cpu as stand_ins

    shims = str(Path(stand_ins.__file__).parent / "shims")
    path = os.pathsep.join(part for part in (shims, base.get("PYTHONPATH", "")) if part)
    return child_env(
        base,
        hisa,
        PYTHONPATH=path,
        SGLANG_USE_CPU_ENGINE="1",
        SGLANG_HISA_CPU="1",
        CUDA_VISIBLE_DEVICES="",
        OMP_NUM_THREADS="1",  # operations of a tiny model are too small to share
        SGLANG_DSA_FUSE_TOPK="1" if fused else "0",
        TORCHDYNAMO_DISABLE="1",
        HF_HUB_OFFLINE="1",
        TRITON_INTERPRET="1",  # 0.5.17's page allocator has Triton kernels only
        PYTHONUNBUFFERED="1",
    )
