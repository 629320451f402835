"""The A/B report as one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from sglang_hisa.launch.ab import plots, stats, words

_CLASSES = {stats.FASTER: "faster", stats.SLOWER: "slower", stats.TOO_FEW: "few"}
_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>A/B: {{ plan.arms | join(", ") }}</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; max-width: 75rem; margin: 1.5rem auto;
  padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: .6rem 0 1.4rem; font-variant-numeric: tabular-nums }
th, td { border: 1px solid #ccc; padding: .25rem .6rem; text-align: left }
th { background: #f2f2f2 }
.note { background: #fde8e8; border-left: 5px solid #c0392b; padding: .5rem .8rem; margin: .4rem 0;
  font-weight: 600 }
.faster { background: #dcf3e0 } .slower { background: #fbdcda } .few { background: #fdf3d0 }
.scroll { overflow-x: auto }
img { max-width: 100%; display: block; margin: 1rem 0 }
pre { background: #f6f6f6; padding: .7rem; overflow-x: auto }
footer, small { color: #666 }
</style>
</head>
<body>
<h1>{{ plan.arms | join(", ") }}</h1>
{% for note in notes %}<p class="note">{{ note }}</p>
{% endfor %}
<p><small>{{ origin }}</small></p>

<h2>Speed-up over {{ plan.baseline }}</h2>
<p>Geometric mean of paired ratios with its 95 % interval; above 1 is faster. A difference is called
only when it holds after Holm's correction over the arm and is larger than the noise of {{ plan.baseline }}
against itself.</p>
{% if not arms %}<p>No arm beside the baseline.</p>{% else %}
<div class="scroll"><table id="verdicts">
<tr><th>cell</th>{% for arm in arms %}{% for name in shown.values() %}<th>{{ arm }}: {{ name }}</th>
{% endfor %}{% endfor %}</tr>
{% for name in cells %}{% set i = loop.index0 %}<tr><td>{{ name }}</td>
{% for arm in arms %}{% for metric in shown %}{% set found = table[arm, i, metric] -%}
<td class="{{ classes[found.verdict] }}">{{ effect(found) }}</td>
{% endfor %}{% endfor %}</tr>
{% endfor %}</table></div>
<details><summary>All metrics: medians, pairs, noise floor</summary>
<div class="scroll"><table>
<tr><th>arm</th><th>cell</th><th>metric</th><th>{{ plan.baseline }}</th><th>arm's median</th><th>speed-up</th>
<th>pairs</th><th>noise floor</th><th>p, corrected</th></tr>
{% for found in table.values() %}<tr class="{{ classes[found.verdict] }}"><td>{{ found.arm }}</td>
<td>{{ cells[found.cell] }}</td><td>{{ found.metric }}</td>
<td>{{ quantity(found.metric, found.baseline_median) }}</td>
<td>{{ quantity(found.metric, found.arm_median) }}</td>
<td>{{ effect(found) }}</td><td>{{ found.pairs }}</td>
<td>{% if found.noise_floor is none %}–{% else %}{{ "%.3f×" | format(found.noise_floor) }}{% endif %}</td>
<td>{% if found.p_holm is none %}–{% else %}{{ "%.2g" | format(found.p_holm) }}{% endif %}</td></tr>
{% endfor %}</table></div></details>{% endif %}

{% for name, data in pictures.items() %}<img alt="{{ name }}" src="data:image/png;base64,{{ data }}">
{% else %}<p>No plots: matplotlib is missing.</p>
{% endfor %}
<h2>Servers</h2>
<div class="scroll"><table>
<tr>{% for name in memory_head %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in memory %}<tr>{% for part in row %}<td>{{ part }}</td>{% endfor %}</tr>
{% endfor %}</table></div>
{% for name, text in logs.items() %}<details open><summary>Last log lines of {{ name }}</summary>
<pre>{{ text }}</pre></details>
{% endfor %}
<h2>Origin</h2>
<table>{% for key, value in origin_rows %}<tr><th>{{ key }}</th><td>{{ value }}</td></tr>
{% endfor %}</table>
<details><summary>Plan</summary><pre>{{ raw_plan }}</pre></details>
</body>
</html>
"""


def html(record: dict[str, Any], pictures: dict[str, bytes]) -> str:
    """The page; ``pictures`` are PNG by name. Every text of the record is escaped.

    Raises:
        ImportError: jinja2 is missing; torch depends on it.
    """
    from jinja2 import Environment, StrictUndefined

    page = Environment(autoescape=True, undefined=StrictUndefined).from_string(_TEMPLATE)
    given = (*record["provenance"].items(), ("model", record["model"]), ("flags", " ".join(record["flags"])))
    return page.render(
        plan=record["plan"],
        arms=words.others(record),
        cells=[words.cell(spec) for spec in record["plan"]["cells"]],
        shown=words.SHOWN,
        table=words.comparisons(record),
        effect=words.effect,
        quantity=words.quantity,
        classes={None: "", stats.SAME: "", **_CLASSES},
        notes=words.notes(record),
        origin=words.origin(record),
        origin_rows=[(key, "–" if value is None else value) for key, value in given],
        memory_head=words.MEMORY_HEAD,
        memory=words.memory(record),
        logs={name: arm["log_tail"] for name, arm in record["arms"].items() if arm.get("log_tail")},
        pictures={name: base64.b64encode(data).decode() for name, data in pictures.items()},
        raw_plan=json.dumps(record["plan"], indent=2),
    )


def write_html(record: dict[str, Any], path: Path) -> None:
    """Draw the plots and write the page.

    Raises:
        ImportError: jinja2 or matplotlib is missing (``pip install sglang-hisa[bench]``).
    """
    path.write_text(html(record, plots.draw(record)), encoding="utf-8")
