"""Pages that stand alone: one HTML file without anything from elsewhere, for a screen of any width, the dark and paper.

`page.html` beside this module is the frame: its blocks `title`, `style` and `content` are a page's own.
"""

from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

from markupsafe import Markup, escape

from anykey.program.machine import release


def render_page(template: str, filters: Mapping[str, Callable[..., Any]], **values: Any) -> str:
    """A page of the frame and a template that extends it as `{% extends "frame" %}`.

    Values are text and never markup, unless they are `markupsafe.Markup`. A name that the template uses and that has no
    value is an error.

    Args:
        template: The template, in jinja2's language.
        filters: Filters of the template, by name.
        values: What the template shows.
    """
    from jinja2 import DictLoader, Environment, StrictUndefined

    frame = (files("anykey.program") / "page.html").read_text(encoding="utf-8")
    environment = Environment(
        loader=DictLoader({"frame": frame, "page": template}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)
    return environment.get_template("page").render(version=release(), **values)


def arrow(text: str, between: str = " -> ") -> Markup:
    """The text with an arrow in the place of what stands for one.

    >>> arrow("text -> <image>")
    Markup('text &rarr; &lt;image&gt;')
    """
    return Markup(" &rarr; ").join(escape(part) for part in text.split(between))


def shown(value: Any) -> str:
    """A setting as a person reads it.

    >>> shown(["a", "b"]), shown(True), shown(None), shown(1e-5)
    ('a, b', 'yes', '-', '1e-05')
    """
    if isinstance(value, list | tuple):
        return ", ".join(shown(part) for part in value) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
