"""Names that one process holds at a time."""

import os
import signal
import subprocess
import sys

from sglang_hisa.launch.common import claims

HOLDER = """
import sys, time
from sglang_hisa.launch.common import claims
with claims.held(*sys.argv[1:]) as mine:
    print(mine, flush=True)
    time.sleep(60)
"""
LONG = "/a/folder" * 30  # longer than the name of a socket may be


def test_a_name_is_one_process_s_until_it_has_ended() -> None:
    words = [sys.executable, "-c", HOLDER, "case", LONG, str(os.getpid())]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "True\n"
        with claims.held("case", LONG, str(os.getpid())) as mine:
            assert not mine
        with claims.held("case", LONG, f"{os.getpid()} x") as mine:
            assert mine, "another name"
        other.send_signal(signal.SIGKILL)
        other.wait(20)
        with claims.held("case", LONG, str(os.getpid())) as mine:
            assert mine
            with claims.held("case", LONG, str(os.getpid())) as again:
                assert not again
        with claims.held("case", LONG, str(os.getpid())) as mine:
            assert mine, "a block that has ended holds nothing"


def test_words_are_told_apart() -> None:
    with claims.held("a b", "c") as one, claims.held("a", "b c") as other:
        assert one and other
