"""The frame of the pages that runs leave behind."""

import pytest
from jinja2 import UndefinedError

from anykey.program.machine import release
from anykey.program.page import render_page

TEMPLATE = """{% extends "frame" %}
{% block title %}{{ name }}{% endblock %}
{% block content %}<h1>{{ name | twice }}</h1>{% endblock %}
"""


def test_a_page_has_its_own_content_in_the_frame_and_values_are_no_markup() -> None:
    page = render_page(TEMPLATE, {"twice": lambda text: text * 2}, name="<b>")
    assert "<title>&lt;b&gt;</title>" in page
    assert "<h1>&lt;b&gt;&lt;b&gt;</h1>" in page
    assert "prefers-color-scheme: dark" in page
    assert f"<footer>AnyKey {release()}</footer>" in page


def test_a_value_that_is_missing_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="name"):
        render_page(TEMPLATE, {"twice": str})
