"""Pages: well-formed, nothing fetched, everything escaped, tables and pictures as they were given."""

import base64
import math

import pytest

from depthflow.reports.page import Details, Facts, Gallery, Page, Picture, Section, Table

PNG, JPEG, SVG = b"\x89PNG\r\n\x1a\n and so on", b"\xff\xd8\xff\xe0 and so on", b"<?xml version='1.0'?><svg/>"
EVIL = """<script>alert("1")</script> & '"""


def page(*parts, **changes):
    return Page(**{"title": "A page", "sections": [Section(heading="A section", parts=parts)], **changes})


def evil_page():
    """Every text that a page can hold is the same, and evil."""
    picture = Picture(image=SVG, alt=EVIL, caption=EVIL, links={EVIL: "a.html"})
    table = Table(columns={EVIL: ""}, rows=[[EVIL]], caption=EVIL)
    parts = [EVIL, Facts(values={EVIL: EVIL}), table, Gallery(pictures=[picture])]
    section = Section(heading=EVIL, parts=[*parts, Details(summary=EVIL, parts=parts)])
    return Page(title=EVIL, subtitle=EVIL, sections=[section, section], meta={EVIL: EVIL})


def test_whatever_is_written_is_text(parse_html):
    html = evil_page().to_html()
    parsed = parse_html(html)
    assert "<script" not in html
    assert parsed.outside() == []
    texts_a_part = 1 + 2 + 3 + 2  # Of a paragraph, facts, a table, and a picture's caption and link.
    texts = 3 + 2 * (1 + 1 + 2 * texts_a_part + 1)  # Titles; and a section's link, heading, parts twice and a summary.
    assert parsed.text.count(EVIL) == texts
    assert parsed.attributes("img", "alt") == [EVIL] * 4
    assert ("meta", {"name": EVIL, "content": EVIL}) in parsed.elements


def test_nothing_is_fetched(parse_html):
    html = page("text", Gallery(pictures=[Picture(image=kind, alt="") for kind in (PNG, JPEG, SVG)])).to_html()
    parsed = parse_html(html)
    assert parsed.outside() == []
    assert "@import" not in html and "url(" not in html
    assert parse_html('<a href="http://a.b/c">x</a><script src="x.js"></script>').outside() != [], "it would be seen"


@pytest.mark.parametrize(
    ("image", "kind"), [(PNG, "image/png"), (JPEG, "image/jpeg"), (SVG, "image/svg+xml"), (b"<svg/>", "image/svg+xml")]
)
def test_a_picture_travels_along(parse_html, image, kind):
    html = page(Gallery(pictures=[Picture(image=image, alt="a view", caption="below")])).to_html()
    (source,) = parse_html(html).attributes("img", "src")
    head, content = source.split(",")
    assert head == f"data:{kind};base64"
    assert base64.b64decode(content) == image


def test_other_files_are_no_pictures():
    with pytest.raises(ValueError, match="PNG, JPEG or SVG"):
        page(Gallery(pictures=[Picture(image=b"GIF89a", alt="")])).to_html()


def test_figures_stand_to_the_right_in_their_format(parse_html):
    columns = {"name": "", "count": ",d", "share": ".1%", "said": "s"}
    rows = [["a", 12345, 0.5, "7 m"], [None, None, math.nan, None], [3, 0, 0.0, ""]]
    parsed = parse_html(page(Table(columns=columns, rows=rows)).to_html())
    assert parsed.table(*columns) == [["a", "12,345", "50.0%", "7 m"], ["–", "–", "–", "–"], ["3", "0", "0.0%", ""]]
    assert parsed.attributes("td", "class") == [None, "number", "number", "number"] * 3
    assert parsed.attributes("th", "class") == [None, "number", "number", "number"]


def test_a_row_has_a_value_a_column():
    with pytest.raises(ValueError, match="zip"):
        page(Table(columns={"a": "", "b": ""}, rows=[["1"]])).to_html()


def test_sections_are_listed_where_there_are_several(parse_html):
    several = Page(title="t", sections=[Section(heading=f"part {k}", parts=[]) for k in range(3)])
    parsed = parse_html(several.to_html())
    targets = [f"#{name}" for name in parsed.attributes("section", "id")]
    assert parsed.attributes("a", "href") == targets
    assert len(set(targets)) == 3
    assert parse_html(page("alone").to_html()).attributes("a", "href") == []


def test_details_hold_parts_and_details(parse_html):
    inner = Details(summary="inner", parts=[Table(columns={"x": ""}, rows=[["deep"]])])
    parsed = parse_html(page(Details(summary="outer", parts=["before", inner])).to_html())
    tags = [tag for tag, _ in parsed.elements]
    assert tags.count("details") == 2
    assert parsed.table("x") == [["deep"]]
    assert all(text in parsed.text for text in ("outer", "before", "inner"))


def test_it_shows_on_a_telephone_and_in_the_dark():
    html = page("text").to_html()
    assert 'name="viewport"' in html
    assert "@media screen and (prefers-color-scheme: dark)" in html, "on paper ink is dark, whatever the screen"


@pytest.mark.parametrize(("columns", "is_dense"), [(10, False), (11, True)])
def test_a_wide_table_is_set_smaller(columns, is_dense):
    html = page(Table(columns={f"column {k}": "" for k in range(columns)}, rows=[range(columns)])).to_html()
    assert ('<table class="dense">' in html) is is_dense


def test_paper_cuts_no_table():
    """There is no scrolling on paper, so a table goes over what the screen would hide."""
    printed = page("text").to_html().split("@media print", 1)[1].split("</style>")[0]
    assert ".wide { overflow: visible; }" in printed


def test_names_hold_no_control_characters():
    name = "a\x1b[31mb\x9b2J\u202ec\nd"
    html = page(name, Facts(values={name: name}), Table(columns={name: ""}, rows=[[name]]), title=name).to_html()
    assert not {*"\x1b\x9b\u202e"} & {*html}
    assert html.count(r"a\x1b[31mb\x9b2J\u202ec") == 7
