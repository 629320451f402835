"""The report of an evaluation as one HTML file that needs nothing beside it."""

from __future__ import annotations

from dataclasses import asdict

from sglang_hisa.launch.common.page import render
from sglang_hisa.launch.eval import formatting
from sglang_hisa.launch.eval.record import EvalRecord

_BODY = """\
<h1>{{ title }}</h1>
{% for note in notes %}<p class="note">{{ note }}</p>
{% endfor %}
<p><small>{{ origin }}</small></p>
<p>{{ reading }}.</p>
<div class="scroll"><table id="answers">
<tr>{% for name in head %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for cell in row %}<td class="{{ classes[cell.verdict] }}">
{{- unbroken(cell.text) }}</td>
{% endfor %}</tr>
{% endfor %}</table></div>
{% for line in left_out %}<p>{{ line }}</p>
{% endfor %}
{% for name, data in pictures.items() %}<img alt="{{ name }}" src="data:image/png;base64,{{ data }}">
{% else %}<p>No plots: matplotlib is missing.</p>
{% endfor %}
<h2>Arms</h2>
<div class="scroll"><table id="arms">
<tr>{% for name in arms_head %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in arms %}<tr>{% for part in row %}<td>{{ part }}</td>{% endfor %}</tr>
{% endfor %}</table></div>
<h2>Origin</h2>
<div class="scroll"><table>{% for key, value in origin_rows %}<tr><th>{{ key }}</th><td>{{ value }}</td></tr>
{% endfor %}</table></div>
"""


def _unbroken(text: str) -> str:
    """``text`` that no line break parts within an interval or between losses and gains."""
    return text.replace(", ", ",\u00a0").replace(" +", "\u00a0+")


def html(record: EvalRecord, pictures: dict[str, bytes]) -> str:
    """The page; ``pictures`` are PNG by name. Every text of the record is escaped.

    Raises:
        ImportError: jinja2 is missing; torch depends on it.
    """
    asked = (("samples", f"{record.plan.samples} of each"), ("seed", record.plan.seed))
    given = (*asdict(record.provenance).items(), ("model", record.model), *asked)
    return render(
        _BODY,
        pictures,
        title=formatting.title(record),
        notes=formatting.notes(record),
        origin=formatting.origin(record),
        reading=formatting.reading(record),
        head=formatting.head(record),
        rows=formatting.table(record),
        classes={"": "", formatting.LOST: "slower", formatting.WON: "faster"},
        unbroken=_unbroken,
        left_out=formatting.left_out(record),
        arms_head=formatting.ARMS_HEAD,
        arms=formatting.arms(record),
        origin_rows=[(key, "–" if value is None else value) for key, value in given],
    )
