"""The A/B report as one HTML file that needs nothing beside it."""

from __future__ import annotations

import json
from typing import Any

from sglang_hisa.launch.ab import formatting, quality, sentence, stats, steady_rows
from sglang_hisa.launch.ab.record import AbRecord
from sglang_hisa.launch.common.page import render

_CLASSES = {stats.FASTER: "faster", stats.SLOWER: "slower", stats.TOO_FEW: "few"}
_BODY = """\
<h1>{{ plan.arms | join(", ") }}</h1>
{% for note in notes %}<p class="note">{{ note }}</p>
{% endfor %}
{% for said in sentences %}<p><strong>{{ said }}</strong></p>
{% endfor %}
<p><small>{{ origin }}</small></p>

<h2>Speed-up over {{ plan.baseline }}</h2>
<p>Geometric mean of paired ratios with its 95 % interval; above 1 is faster. A difference is called
only when it holds after Holm's correction over the arm (alpha {{ plan.alpha }}) and is larger than the
noise of {{ plan.baseline }} against itself. {{ once }}</p>
{% if not plan.others %}<p>No arm beside the baseline.</p>{% else %}
{% if whole %}<div class="scroll"><table id="verdicts">
<tr><th>cell</th>{% for arm in plan.others %}{% for name in form.SHOWN.values() -%}
<th>{{ arm }}: {{ name }}</th>
{% endfor %}{% endfor %}</tr>
{% for i in whole %}<tr><td>{{ cells[i] }}</td>
{% for arm in plan.others %}{% for metric in form.SHOWN %}{% set found = table[arm, i, metric] -%}
<td class="{{ classes[found.verdict] }}">{{ form.effect(found) -}}
<br><small>{{ form.times(found) }}</small></td>
{% endfor %}{% endfor %}</tr>
{% endfor %}</table></div>{% endif %}
{% if steady %}<h2>{{ steady_rows.TITLE | capitalize }}</h2><p>{{ steady_rows.ABOUT }}</p>
<div class="scroll"><table id="steady">
<tr>{% for name in steady_rows.HEAD %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in steady %}<tr>{% for part in row %}<td>{{ part }}</td>{% endfor %}</tr>
{% endfor %}</table></div>{% endif %}
<details><summary>All metrics: medians, pairs, noise floor</summary>
<div class="scroll"><table>
<tr><th>arm</th><th>cell</th><th>metric</th><th>{{ plan.baseline }}</th><th>arm's median</th><th>speed-up</th>
<th>pairs</th><th>noise floor</th><th>p, corrected</th></tr>
{% for found in table.values() %}<tr class="{{ classes[found.verdict] }}"><td>{{ found.arm }}</td>
<td>{{ cells[found.cell] }}</td><td>{{ found.metric }}</td>
<td>{{ form.quantity(found.metric, found.baseline_median) }}</td>
<td>{{ form.quantity(found.metric, found.arm_median) }}</td>
<td>{{ form.effect(found) }}</td><td>{{ found.pairs }}</td>
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
{% if quality %}<h2>Quality: difference from {{ plan.baseline }} on the same prompts</h2>
<p>KL in nats of the next-token distributions at the last positions of each prompt (a lower bound: of each
distribution the likeliest tokens are kept). The row of {{ plan.baseline }} again is its own noise.
Overlap: share of the tokens chosen by the indexer of {{ plan.baseline }} that the arm chose too.</p>
<div class="scroll"><table id="quality">
<tr>{% for name in quality_head %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in quality %}<tr>{% for part in row %}<td>{{ part }}</td>{% endfor %}</tr>
{% endfor %}</table></div>{% endif %}
{% for name, text in logs.items() %}<details open><summary>Last log lines of {{ name }}</summary>
<pre>{{ text }}</pre></details>
{% endfor %}
<h2>Origin</h2>
<div class="scroll"><table>{% for key, value in origin_rows %}<tr><th>{{ key }}</th><td>{{ value }}</td></tr>
{% endfor %}</table></div>
<details><summary>Plan</summary><pre>{{ raw_plan }}</pre></details>
"""


def html(record: AbRecord, plan: dict[str, Any], pictures: dict[str, bytes]) -> str:
    """The page; ``pictures`` are PNG by name, ``plan`` is as the file has it. Every text is escaped.

    Raises:
        ImportError: jinja2 is missing; torch depends on it.
    """
    return render(
        _BODY,
        pictures,
        title=f"A/B: {', '.join(record.plan.arms)}",
        plan=record.plan,
        cells=[formatting.cell(spec) for spec in record.plan.cells],
        form=formatting,
        whole=formatting.whole(record),
        steady=steady_rows.table(record, formatting.effects(record)),
        steady_rows=steady_rows,
        table=formatting.comparisons(record),
        classes={None: "", stats.SAME: "", **_CLASSES},
        notes=formatting.notes(record),
        sentences=sentence.sentences(record, formatting.comparisons(record)),
        origin=formatting.origin(record),
        once=formatting.started_once(record),
        origin_rows=record.about.items(),
        memory_head=formatting.MEMORY_HEAD,
        memory=formatting.memory(record),
        quality_head=quality.HEAD,
        quality=quality.table(record),
        logs={name: arm.log_tail for name, arm in record.arms.items() if arm.log_tail},
        raw_plan=json.dumps(plan, indent=2),
    )
