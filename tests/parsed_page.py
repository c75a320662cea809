"""What a browser would make of a page."""

import re
from html.parser import HTMLParser

NEIGHBOUR = re.compile(r"[\w-]+\.html")
VOID = {"meta", "img", "br", "link"}


class ParsedPage(HTMLParser):
    """A page's elements and text, held to be well-formed: every element is closed in its turn.

    Attributes:
        elements: (tag, attributes) in order.
        tables: a list a table, of rows, of cell texts; the heads' row first.
        text: all text outside of style, its white space as single blanks.
    """

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.elements, self.tables = [], []
        self._open, self._text, self._texts = [], [], []
        self.feed(html)
        self.close()
        assert self._open == []
        self.text = " ".join("".join(self._text).split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
            self._texts.append((tag, []))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "style" not in self._open:
            self._text.append(data)
        if self._texts:
            self._texts[-1][1].append(data)
        if self._open and self._open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data

    def attributes(self, tag, name):
        """One attribute of all elements of a kind."""
        return [attributes.get(name) for found, attributes in self.elements if found == tag]

    def text_of(self, tag):
        """The text right after each start of an element of a kind."""
        return ["".join(data).strip() for found, data in self._texts if found == tag]

    def table(self, *heads):
        """The rows below the only table with these heads."""
        (rows,) = [rows for head, *rows in self.tables if head == list(heads)]
        return rows

    def outside(self):
        """Whatever a browser would fetch or run, and links to anything but pages in the same folder."""
        links = [(tag, key, value) for tag, attributes in self.elements for key, value in attributes.items()]
        fetched = [link for link in links if link[1] in ("src", "href", "srcset", "data", "action")]
        scripts = [link for link in links if link[1].startswith("on")]
        tags = [tag for tag, _ in self.elements if tag in ("script", "link", "iframe", "object", "embed", "base")]
        fetched = [link for link in fetched if not link[2].startswith(("data:image/", "#"))]
        return [link for link in fetched if link[0] != "a" or not NEIGHBOUR.fullmatch(link[2])] + scripts + tags
