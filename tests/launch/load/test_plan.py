"""Which servers a load test goes to, and what it sends there."""

import pytest

from sglang_hisa.launch.cli import main
from sglang_hisa.launch.load import plan
from sglang_hisa.launch.load.plan import Sweep, Workload
from sglang_hisa.launch.load.sweep import child_env

SERVER = ("org/m", "org/t")


def sweep(kind: str, loads: str, requests: int | None = None) -> Sweep:
    return Sweep(kind, plan.parse_loads(loads, kind), requests, 60, 900, 7)


def value(flags: list[str], name: str) -> str:
    return flags[flags.index(name) + 1]


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:30000", "http://127.0.0.1:30000"),
        ("http://localhost:8000/", "http://localhost:8000"),
        ("localhost:8000", "http://localhost:8000"),
        ("127.0.0.1", "http://127.0.0.1:30000"),
        ("http://[::1]:30001", "http://[::1]:30001"),
    ],
)
def test_servers_of_this_machine(text: str, url: str) -> None:
    assert plan.local_url(text) == url


@pytest.mark.parametrize(
    "text",
    [
        *("http://example.com:30000", "10.0.0.1:30000", "http://0.0.0.0:30000", "http://127.0.0.1.evil.com"),
        *("http://127.0.0.1@example.com", "http://localhost.example.com", "http://127.1:30000"),
    ],
)
def test_other_machines_are_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="this machine only"):
        plan.local_url(text)
    with pytest.raises(SystemExit) as stop:
        main(["load", text])
    assert stop.value.code == 2 and "this machine only" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["https://127.0.0.1", "http://localhost:1/v1", "http://localhost?x=1"])
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="looks like"):
        plan.local_url(text)


def test_loads_and_limits() -> None:
    assert plan.parse_loads("8,1,2,2", "concurrency") == (1, 2, 8)
    assert plan.parse_loads("0.5,4", "rate") == (0.5, 4)
    assert plan.parse_slo("ttft=2, itl=0.05") == {"ttft": 2, "itl": 0.05}


BAD = [
    *(["--concurrency", text] for text in ("0", "1.5", "", "-1", "x")),
    *(["--rate", text] for text in ("0", "nan", "inf", "1,-2")),
    *(["--slo", text] for text in ("ttft", "ttft=0", "p99=1", "ttft=nan")),
    *(["--requests", "0"], ["--limit", "inf"], ["--seconds", "0"], ["--output-tokens", "0"]),
    *(["--workload", "chat"], ["--workload", "shared-prefix", "--prefix-tokens", "8k"]),
    ["--rate", "1", "--concurrency", "1"],
]


@pytest.mark.parametrize("words", BAD, ids=" ".join)
def test_wrong_usage(words: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["load", "http://127.0.0.1:9", *words])
    assert stop.value.code == 2


def test_every_point_has_a_bounded_number_of_requests() -> None:
    assert [sweep("concurrency", "1,8,64").count(x) for x in (1, 8, 64)] == [16, 32, 256]
    assert [sweep("rate", "0.01,4").count(x) for x in (0.01, 4)] == [1, 240]
    assert sweep("rate", "4", requests=5).count(4) == 5


def test_random_prompts_have_exact_lengths() -> None:
    work = Workload("random", 8192, 128)
    flags = plan.flags("http://localhost:1", *SERVER, work, sweep("concurrency", "2,8"), 1)
    assert value(flags, "--random-input-len") == "8192" and "--tokenize-prompt" in flags
    assert value(flags, "--max-concurrency") == "8" and value(flags, "--num-prompts") == "32"
    assert value(flags, "--seed") == "8" and value(flags, "--warmup-requests") == "0"
    assert "--request-rate" not in flags and value(flags, "--tokenizer") == "org/t"


def test_shared_prefixes_and_turns() -> None:
    work = Workload("multi-turn", 1000, 20, groups=3, prefix_tokens=700, turns=4)
    flags = plan.flags("http://localhost:1", *SERVER, work, sweep("rate", "0.5", requests=7), 0)
    assert value(flags, "--gsp-system-prompt-len") == "700" and value(flags, "--gsp-question-len") == "300"
    assert value(flags, "--gsp-num-groups") == "3" and value(flags, "--gsp-prompts-per-group") == "3"
    assert value(flags, "--gsp-num-turns") == "4" and value(flags, "--backend") == "sglang-oai-chat"
    assert value(flags, "--request-rate") == "0.5" and "--max-concurrency" not in flags


def test_the_generator_reaches_this_machine_past_a_proxy() -> None:
    env = child_env({"http_proxy": "http://proxy:1", "no_proxy": "intern"})
    assert env["no_proxy"] == env["NO_PROXY"] == "intern,127.0.0.1,localhost,::1"
    assert env["http_proxy"] == "http://proxy:1"


def test_no_server(capsys: pytest.CaptureFixture[str], tmp_path) -> None:
    out = tmp_path / "out"
    assert main(["load", "http://127.0.0.1:9", "--out", str(out)]) == 1
    message = capsys.readouterr().err
    assert message.startswith("hisa load: no SGLang server answers at http://127.0.0.1:9 ")
    assert len(message.splitlines()) == 1 and not out.exists()
