"""`make docs` builds a complete site without warnings or a network, which loads nothing from other servers."""

import importlib
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import depthflow

ROOT = Path(__file__).resolve().parents[2]
NO_NETWORK = """
import socket

def connect(self, address, *rest):
    raise SystemExit(f"The documentation was built with a network: {address}")

socket.socket.connect = socket.socket.connect_ex = connect
socket.getaddrinfo = lambda *address, **options: connect(None, address)
"""
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FETCHED = {
    "script": "src",
    "link": "href",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "object": "data",
}
"""Elements whose address a browser fetches automatically."""


class Fetched(HTMLParser):
    """Collects the addresses that a browser fetches automatically."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        address = dict(attrs).get(FETCHED.get(tag, ""))
        if address:
            self.addresses.append(address)


OLDER_NAMES = {"--encoder-weights"}
"""Of flags that have another name now; commands still take them."""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("documentation")
    (folder / "sitecustomize.py").write_text(NO_NETWORK)
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(folder), "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "site"


def text_of(site: Path, page: str) -> str:
    return (site / page).read_text()


def test_every_page_is_built(site):
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    built = {path.relative_to(site) for path in site.rglob("*.html")} - {Path("404.html")}
    assert built == pages
    assert len(pages) > 20


def test_pages_load_nothing_from_other_servers(site):
    pages = list(site.rglob("*.html"))
    for page in pages:
        parser = Fetched()
        parser.feed(page.read_text())
        assert len(parser.addresses) > 3
        assert [address for address in parser.addresses if re.match(r"(?i)([a-z]+:)?//", address)] == [], page
        assert not re.search(r"@import|url\(['\"]?(https?:)?//", page.read_text()), page
    styles = list(site.rglob("*.css"))
    assert len(styles) >= 3
    for style in styles:
        assert not re.search(r"@import|url\(['\"]?(https?:)?//", style.read_text()), style


def test_the_reference_has_every_flag_of_every_command(site):
    page, recipes = text_of(site, "reference/commands.html"), text_of(site, "reference/recipes.html")
    sections = dict(zip(*[iter(re.split(r'<h2 id="(\w+)"', page)[1:])] * 2, strict=True))
    sections["train"] += recipes
    for line in (ROOT / "tests" / "contract" / "flags.txt").read_text().splitlines():
        command, flags = line.split(": ")
        opposites = {f"--no-{flag.removeprefix('--')}" for flag in flags.split()}
        shown = re.findall(r'doc-attribute-name">(--[a-z0-9-]+)<', sections[command])
        assert {*shown} == {*flags.split()} - opposites - OLDER_NAMES, command


def test_the_reference_has_every_command(site):
    commands = {path.stem for path in (ROOT / "pipelines").glob("*.py")}
    headings = set(re.findall(r'<h2 id="(\w+)"', text_of(site, "reference/commands.html")))
    assert commands <= headings


def test_the_reference_has_every_module(site):
    pages = "".join(page.read_text() for page in (site / "reference").rglob("*.html"))
    modules = [info.name for info in pkgutil.walk_packages(depthflow.__path__, "depthflow.") if not info.ispkg]
    assert len(modules) > 60
    documented = [
        name for name in modules if not name.endswith((".config", ".recipe"))
    ]  # Documented by their dataclasses.
    assert [name for name in documented if f'id="{name}"' not in pages] == []


def test_the_reference_links_the_public_api(site):
    page = text_of(site, "reference/library/index.html")
    names = [name for name in depthflow.__all__ if not re.search(rf"<a [^>]+><code[^>]*>{name}</code></a>", page)]
    assert len(depthflow.__all__) > 10
    assert names == []


def test_the_reference_contains_the_docstrings(site):
    page = " ".join(text_of(site, "reference/library/training.html").split())
    first = (importlib.import_module("depthflow.training.job").__doc__ or "").split(".")[0]
    assert first in page


@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
def test_search_works_from_disk(site, tmp_path):
    flags = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--dump-dom")
    page = f"{(site / 'index.html').as_uri()}?q=promotion"
    done = subprocess.run(
        [str(CHROMIUM), *flags, "--virtual-time-budget=60000", page], capture_output=True, text=True, timeout=120
    )
    found = re.search(r"(\d+) matching documents", done.stdout)
    assert found and int(found[1]) > 3, done.stderr[-3000:]
