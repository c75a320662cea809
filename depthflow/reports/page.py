"""One HTML page that opens anywhere, without a network: text, tables and pictures, nothing to fetch, and no scripts
except for those of a viewer.

page = Page(title="A report", sections=[Section(heading="Counts", parts=["All is well.", Table(...)])])
html = page.to_html()
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from depthflow.observability.safe_text import escape_controls

EMPTY_CELL = "–"
DENSE_COLUMNS = 10
"""A table of more is set smaller, so that a laptop's screen and a sheet of paper hold it: paper cannot be scrolled."""

_SIGNATURES = {
    b"\x89PNG": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"<?xml": "image/svg+xml",
    b"<svg": "image/svg+xml",
}


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A few short figures that one sees first.

    Attributes:
        values: name to figure.
    """

    kind: ClassVar[str] = "facts"
    values: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under headings.

    Attributes:
        columns: heading to the format of its figures, such as ",d" or ".2f", or "s" where they come as text; figures
            stand to the right. An empty format is text, to the left.
        rows: a value a column; None is an empty cell.
        caption: above the table.
    """

    kind: ClassVar[str] = "table"
    columns: Mapping[str, str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""

    @property
    def is_dense(self) -> bool:
        """Whether it has so many columns that they are set smaller."""
        return len(self.columns) > DENSE_COLUMNS

    @property
    def cells(self) -> list[list[tuple[str, bool]]]:
        """Each row's cells as (text, whether it is a figure)."""
        specs = self.columns.values()
        return [[(_cell(value, spec), bool(spec)) for value, spec in zip(row, specs, strict=True)] for row in self.rows]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture that travels inside the page.

    Attributes:
        image: the bytes of a PNG, JPEG or SVG file.
        alt: what it shows, for who cannot see it.
        caption: below it.
        links: Text to address of the links that follow the caption.
    """

    image: bytes
    alt: str
    caption: str = ""
    links: Mapping[str, str] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        """The picture as a data: URI.

        Raises:
            ValueError: if it is of another kind.
        """
        kind = next((kind for start, kind in _SIGNATURES.items() if self.image.startswith(start)), None)
        if kind is None:
            raise ValueError(f"A picture is a PNG, JPEG or SVG file. Received: {self.image[:8]!r}")
        return f"data:{kind};base64,{base64.b64encode(self.image).decode()}"


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Pictures one below the other, or side by side where the window is wide enough.

    Attributes:
        pictures: in this order.
        side_by_side: whether two may share a row.
    """

    kind: ClassVar[str] = "gallery"
    pictures: Sequence[Picture]
    side_by_side: bool = False


@dataclass(frozen=True, kw_only=True)
class Details:
    """What one opens only to look it up.

    Attributes:
        summary: the line that opens it.
        parts: what it holds.
    """

    kind: ClassVar[str] = "details"
    summary: str
    parts: Sequence["Part"]


@dataclass(frozen=True, kw_only=True)
class Viewer:
    """Something to turn and zoom, with pictures beside it where the window is wide enough.

    Attributes:
        html: Elements and scripts as they are: the only text of a page that is not escaped.
        beside: The pictures.
    """

    kind: ClassVar[str] = "viewer"
    html: str
    beside: Gallery


Part = str | Facts | Table | Gallery | Details | Viewer
"""What a section holds; a str is a paragraph."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading and what stands under it."""

    heading: str
    parts: Sequence[Part]


@dataclass(frozen=True, kw_only=True)
class Page:
    """A whole page.

    Attributes:
        title: of the page.
        sections: in this order; several are also listed on top.
        subtitle: a line below the title.
        meta: name to content of the page's meta elements, for programs.
    """

    title: str
    sections: Sequence[Section]
    subtitle: str = ""
    meta: Mapping[str, str] = field(default_factory=dict)

    def to_html(self) -> str:
        """The page as HTML; every text in it is escaped."""
        loader = PackageLoader("depthflow.reports", package_path="")
        environment = Environment(
            loader=loader,
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_without_controls,
        )
        return environment.get_template("page.html").render(page=self)


def _without_controls(value: Any) -> Any:
    """Escapes what whoever shows the page in a terminal must not get; line ends stay."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "\n".join(map(escape_controls, value.split("\n")))


def _cell(value: Any, spec: str) -> str:
    if value is None or value != value:  # Only a NaN differs from itself.
        return EMPTY_CELL
    return format(value, spec) if spec else str(value)
