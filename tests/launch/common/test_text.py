"""Numbers in words of tables."""

from sglang_hisa.launch.common.text import or_dash, tokens


def test_tokens_in_thousands_and_all_of_them() -> None:
    assert [tokens(count) for count in (8192, 100, 8191, 0)] == ["8K", "100", "8191", "0"]
    assert [tokens(size, 65536) for size in (32768, 65535, 65536, 131072)] == ["32K", "65535", "all", "all"]


def test_a_dash_stands_for_what_is_not_known_and_not_for_nothing() -> None:
    assert or_dash(None, "{:.2f} s") == "–" and or_dash(0, "{:.2f} s") == "0.00 s"
    assert or_dash(0.01284, "{:.1f} ms", 1e3) == "12.8 ms" and or_dash(48) == "48"
