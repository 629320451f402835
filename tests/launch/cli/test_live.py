"""What ``hisa ab --live`` refuses before it starts anything, and how it says it."""

import pytest

from sglang_hisa.launch.cli import main
from sglang_hisa.launch.live import router


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--arms", "stock,paper,balanced"], "--live compares two arms; --arms names 3"),
        (["--arms", "stock,papper"], "papper"),
        (["--share", "0.01"], "--share 0.01: must lie between 1/20 and 19/20"),
        (["--every", "0"], "longer than 0 s"),
        ([], "give --max-total-tokens N"),
    ],
)
def test_wrong_usage(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(SystemExit) as stop:
        main(["ab", "--live", *words, "some/model"])
    assert stop.value.code == 2 and said in capsys.readouterr().err


def test_without_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["ab", "--live"])
    assert stop.value.code == 2 and "MODEL is missing" in capsys.readouterr().err


def test_a_missing_router_is_said_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router, "MODULE", "no_such_router")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert main(["ab", "--live", "some/model"]) == 1
    assert capsys.readouterr().err == router.MISSING + "\n"
    assert "pip install sglang-router" in router.MISSING
