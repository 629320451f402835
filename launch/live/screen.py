"""Progress of a live comparison: a table that renews itself on a terminal, lines elsewhere."""

from __future__ import annotations

from rich.console import Console
from rich.live import Live
from rich.text import Text

from sglang_hisa.launch.live import formatting, report
from sglang_hisa.launch.live.record import Windows


class Screen:
    """Context manager; ``console`` is standard error, so that a report on standard output stays clean."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._shown = False

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            self._live.stop()

    def tell(self, line: str) -> None:
        """One message; it scrolls away above the table."""
        self._console.print(Text(f"hisa ab: {line}"), soft_wrap=True)

    def show(self, seconds: float, split: str, windows: Windows, totals: Windows) -> None:
        """Show the last window of each arm beside its totals since the start."""
        if not self._console.is_terminal:
            for name, window in windows.items():
                self.tell(f"{seconds:,.0f} s, {name}: {formatting.line(window)}")
            return
        if not self._shown:
            self._live.start()
            self._shown = True
        last = {f"{name}, now": window for name, window in windows.items()}
        columns = {**last, **{f"{name}, all": window for name, window in totals.items()}}
        self._live.update(report.table(columns, f"{seconds:,.0f} s, {split}"), refresh=True)
