"""The fenced blocks of README.md and docs/.

A block's language says what it contains: `sh` commands, `python` a program, `text` and `json` output or files. A title
that starts with "needs" says what a laptop may lack to run it: needs AWS, needs the DIODE archives.
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block.

    Attributes:
        page: path of the page in the checkout.
        line: line number of the opening fence.
        info: text after the opening fence.
        text: content of the block.
    """

    page: str
    line: int
    info: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def language(self) -> str:
        return self.info.partition(" ")[0]

    @property
    def needs(self) -> str | None:
        """What it needs, or None if it runs anywhere."""
        found = re.search(r'title="needs ([^"]+)"', self.info)
        return found[1] if found else None

    @property
    def lines(self) -> list[str]:
        """Command lines of an `sh` block, with continuation lines joined."""
        return [line for line in self.text.replace("\\\n", " ").splitlines() if line.strip()]


def blocks_of(path: Path) -> list[Block]:
    """Returns the fenced blocks of a page in order."""
    text = path.read_text()
    return [
        Block(
            page=str(path.relative_to(ROOT)),
            line=text.count("\n", 0, match.start()) + 1,
            info=match["info"].strip(),
            text=match["text"],
        )
        for match in FENCE.finditer(text)
    ]
