"""The folder of a load test: the record, and what a person reads of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from sglang_hisa.launch.common import files
from sglang_hisa.launch.common.page import render
from sglang_hisa.launch.common.typed import as_json, read
from sglang_hisa.launch.load import formatting, goodput, plots, point_tables, steady_rows
from sglang_hisa.launch.load.record import KIND, VERSION, LoadRecord

_KEYS = ("plan", "points", "slo", "complete", "stopped_by", "provenance", "server")


def html(record: LoadRecord, pictures: dict[str, bytes]) -> str:
    """The page; ``pictures`` are PNG by name.

    Raises:
        ImportError: jinja2 is missing; torch depends on it.
    """
    server = {key: value for key, value in asdict(record.server).items() if key != "receipt"}  # in words
    given = (*asdict(record.provenance).items(), ("url", record.url), *server.items())
    return render(
        _BODY,
        pictures,
        title=f"Load: {formatting.workload(record)}",
        workload=formatting.workload(record),
        served=formatting.served(record),
        notes=formatting.notes(record),
        facts=[*formatting.facts(record), *steady_rows.notes(record)],
        steady_head=steady_rows.HEAD,
        steady_title=steady_rows.TITLE,
        steady=steady_rows.rows(record),
        verdict=formatting.verdict(record),
        slo=formatting.slo(record),
        enough=goodput.ENOUGH,
        head=formatting.head(record),
        rows=formatting.rows(record),
        origin=formatting.origin(record),
        origin_rows=[(key, "–" if value is None else value) for key, value in given],
        log_tail=record.log_tail,
        raw_plan=json.dumps(as_json(record.plan), indent=2),
    )


def save(record: LoadRecord, folder: Path) -> None:
    """Write report.json; see :func:`files.save`."""
    files.save(record.as_json(), folder)


def write(record: LoadRecord, folder: Path) -> None:
    """Write report.json, report.md, report.html, report.csv and the plots.

    Without matplotlib there are no plots.

    Raises:
        ImportError: jinja2 is missing (``pip install sglang-hisa[bench]``); report.json is written.
    """
    save(record, folder)
    try:
        pictures = plots.draw(record)
    except ImportError:
        pictures = {}
    files.write(folder, html(record, pictures), point_tables.markdown(record), pictures)
    files.write_csv(folder, goodput.flat(record.stats.points))


def load(source: Path) -> LoadRecord:
    """A record by its file, or by the folder that ``write`` made; raises as :func:`files.load`."""
    return read(LoadRecord, files.load(source, KIND, VERSION, keys=_KEYS), source)


_BODY = """\
<h1>{{ workload }}</h1>
{% for note in notes %}<p class="note">{{ note }}</p>
{% endfor %}
<p><strong>{{ verdict }}</strong></p>
<p>{{ served }}</p>
<p><small>{{ origin }}</small></p>
<div class="scroll"><table id="loads">
<tr>{% for name in head %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for part in row %}<td>{{ part }}</td>{% endfor %}</tr>
{% endfor %}</table></div>
{% if slo %}<p>Goodput counts requests that meet {{ slo }}; ITL is the 99th percentile of a request's own
gaps. The knee is the highest measured load at which at least {{ "%d" | format(enough * 100) }} % of the
requests are good. A failed request is not good.</p>{% endif %}
{% if steady %}<h2>{{ steady_title }}</h2>
<div class="scroll"><table id="steady">
<tr>{% for name in steady_head %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in steady %}<tr>{% for part in row %}<td>{{ part }}</td>{% endfor %}</tr>
{% endfor %}</table></div>{% endif %}
{% for fact in facts %}<p><small>{{ fact }}</small></p>
{% endfor %}
{% for name, data in pictures.items() %}<img alt="{{ name }}" src="data:image/png;base64,{{ data }}">
{% else %}<p>No plots: matplotlib is missing.</p>
{% endfor %}
{% if log_tail %}<details open><summary>Last log lines of the load generator</summary>
<pre>{{ log_tail }}</pre></details>{% endif %}
<h2>Origin</h2>
<div class="scroll"><table>{% for key, value in origin_rows %}<tr><th>{{ key }}</th><td>{{ value }}</td></tr>
{% endfor %}</table></div>
<details><summary>Plan</summary><pre>{{ raw_plan }}</pre></details>
"""
