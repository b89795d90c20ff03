"""A diagnosis as one HTML file that needs nothing beside it: no script, no link, pictures inside, all text escaped."""

from __future__ import annotations

import base64
import os
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from stabilgan._version import __version__
from stabilgan.diagnosis.charts import pictures
from stabilgan.diagnosis.findings import Diagnosis
from stabilgan.diagnosis.remedies import command, in_a_loop, remedies
from stabilgan.diagnosis.report import bounds, headline, number, word

TEMPLATE = "report.html.jinja"


def rendered(diagnosis: Diagnosis) -> str:
    """The page."""
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.filters["b64"] = lambda png: base64.b64encode(png).decode()
    template = environment.from_string((files("stabilgan.diagnosis") / TEMPLATE).read_text(encoding="utf-8"))
    onsets = {f.title: f.onset for f in diagnosis.findings if f.onset is not None}
    return template.render(
        d=diagnosis,
        headline=headline(diagnosis),
        version=__version__,
        pictures=pictures(diagnosis.figures, onsets=onsets),
        remedies=remedies,
        command=command,
        in_a_loop=in_a_loop,
        number=number,
        bounds=bounds,
        word=word,
    )


def write(diagnosis: Diagnosis, path: Path) -> None:
    """Writes the page, whole or not at all.

    Raises:
        OSError: the folder isn't there or can't be written to.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(rendered(diagnosis), encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
