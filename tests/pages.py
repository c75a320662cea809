"""The fenced blocks of README.md and of the pages under docs/: what is a command there, and what it needs.

A block's language says what it is: `sh` holds commands, `python` a program, `text` and `json` what is printed or
written. A title that begins with "needs" says what a laptop may lack to run it: needs AWS, needs the DIODE archives.
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
        page: its path in the checkout.
        line: number of the line that opens it.
        info: what stands behind its opening fence.
        text: what it holds.
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
        """Of `sh`: its command lines; a line that ends with a backslash goes on in the next."""
        return [line for line in self.text.replace("\\\n", " ").splitlines() if line.strip()]


def blocks_of(path: Path) -> list[Block]:
    """All fenced blocks of a page, in its order."""
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
