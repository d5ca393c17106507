"""HTML that shows whatever it is given, as text."""

import jinja2
import pytest

from jinit.templates import render


def test_what_is_shown_is_escaped():
    page = render("model.html.j2", title="<b>", sentences=["1 < 2"], columns=["&"], rows=[["'"]])
    assert "<h1>&lt;b&gt;</h1>" in page
    assert "<p>1 &lt; 2</p>" in page
    assert "<th>&amp;</th>" in page


def test_a_value_that_is_missing_is_an_error_not_a_gap():
    with pytest.raises(jinja2.UndefinedError, match="sentences"):
        render("model.html.j2", title="a", columns=[], rows=[])
