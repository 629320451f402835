"""The report of a live comparison as one HTML file, as Markdown, and its windows as rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sglang_hisa.launch.common import text
from sglang_hisa.launch.common.page import render
from sglang_hisa.launch.live import formatting
from sglang_hisa.launch.live.record import Line, LiveRecord

_BODY = """\
<h1>{{ title }}</h1>
{% for note in notes %}<p class="note">{{ note }}</p>
{% endfor %}
<p>{{ split }}</p>
<p><strong>{{ unpaired }}</strong></p>
<p><small>{{ origin }}</small></p>
<div class="scroll"><table id="totals">
<tr>{% for name in head %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for part in row %}<td>{{ part }}</td>{% endfor %}</tr>
{% endfor %}</table></div>
{% for name, data in pictures.items() %}<img alt="{{ name }}" src="data:image/png;base64,{{ data }}">
{% else %}<p>No plots: matplotlib is missing, or there was no window.</p>
{% endfor %}
{% for name, tail in logs.items() %}<details open><summary>Last log lines of {{ name }}</summary>
<pre>{{ tail }}</pre></details>
{% endfor %}
<h2>Origin</h2>
<div class="scroll"><table>{% for key, value in origin_rows %}<tr><th>{{ key }}</th><td>{{ value }}</td></tr>
{% endfor %}</table></div>
"""


def head(record: LiveRecord) -> tuple[str, ...]:
    """Head of what each arm did in all."""
    return ("since the start", *record.arms)


def flat(windows: Sequence[Line]) -> list[dict[str, Any]]:
    """A flat row for each window and arm that answered, for a CSV file."""
    return [
        {"ended_s": line.seconds, "arm": arm, **asdict(window)}
        for line in windows
        for arm, window in line.arms.items()
        if window is not None
    ]


def markdown(record: LiveRecord) -> str:
    """The same for a pull request."""
    return "\n\n".join(
        (
            *(f"> **{text.plain(note)}**" for note in formatting.notes(record)),
            text.plain(formatting.split(record)),
            text.table(
                map(text.plain, head(record)),
                (map(text.plain, row) for row in formatting.rows(record.totals)),
            ),
            text.plain(formatting.UNPAIRED),
            f"<sub>{text.plain(formatting.origin(record))}</sub>\n",
        )
    )


def html(record: LiveRecord, pictures: dict[str, bytes]) -> str:
    """The page; ``pictures`` are PNG by name. Every text of the record is escaped.

    Raises:
        ImportError: jinja2 is missing; torch depends on it.
    """
    settings = {f"setting of {name}": text.setting(arm.setting) for name, arm in record.arms.items()}
    return render(
        _BODY,
        pictures,
        title=f"Live: {', '.join(record.plan.arms)}",
        notes=formatting.notes(record),
        split=formatting.split(record),
        unpaired=formatting.UNPAIRED,
        origin=formatting.origin(record),
        head=head(record),
        rows=formatting.rows(record.totals),
        logs={name: arm.log_tail for name, arm in record.arms.items() if arm.log_tail},
        origin_rows={**record.about, **settings}.items(),
    )
