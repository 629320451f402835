"""One HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 75rem; margin: 1.5rem auto;
  padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: .6rem 0 1.4rem; font-variant-numeric: tabular-nums }
th, td { border: 1px solid #ccc; padding: .25rem .6rem; text-align: left }
th { background: #f2f2f2 }
.note { background: #fde8e8; border-left: 5px solid #c0392b; padding: .5rem .8rem; margin: .4rem 0;
  font-weight: 600 }
.scroll { overflow-x: auto }
img { max-width: 100%; display: block; margin: 1rem 0 }
pre { background: #f6f6f6; padding: .7rem; overflow-x: auto }
footer, small { color: #666 }
"""


def render(body: str, pictures: Mapping[str, bytes], **fields: Any) -> str:
    """``body`` (a jinja2 template) as a page; every field is escaped.

    The template gets ``fields`` and ``pictures``, base64 PNG by name; ``title`` of the fields names the page.

    Raises:
        ImportError: jinja2 is missing; torch depends on it.
    """
    from jinja2 import Environment, StrictUndefined

    page = Environment(autoescape=True, undefined=StrictUndefined).from_string(_FRAME.replace("@body@", body))
    images = {name: base64.b64encode(data).decode() for name, data in pictures.items()}
    return page.render(pictures=images, style=STYLE, **fields)


_FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{{ title }}</title>
<style>{{ style | safe }}</style>
</head>
<body>
@body@
</body>
</html>
"""
