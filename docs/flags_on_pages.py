"""A hook of mkdocs: pages that document flags by their dataclasses show them as they are typed."""

import re
from typing import Any

PAGES = ("reference/commands.md", "reference/recipes.md")
NOT_FLAGS = ("command", "name")
"""submit.py's positional argument, and the name of a recipe."""

# The heading of a field, and its first word in the line with its type and default.
FIELD = re.compile(r'(?<=doc-attribute-name">)\w+|(?<=<pre><span></span><code><span class="n">)\w+')


def flag(field: str) -> str:
    """Returns the flag of a field."""
    return field if field in NOT_FLAGS else f"--{field.replace('_', '-')}"


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Rewrites the names of fields in a page, and in its table of contents."""
    if page.file.src_uri not in PAGES:
        return html
    waiting = list(page.toc)
    for item in waiting:
        waiting.extend(item.children)
        if re.search(r"\.[A-Z]\w+\.\w+$", item.id):
            item.title = flag(item.title)
    return FIELD.sub(lambda found: flag(found[0]), html)
