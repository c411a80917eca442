"""The schemas that saved workflows rely on stay as they are, and help pages reach the frontend."""

from __future__ import annotations

import io
import json
import re

import pytest
from PIL import Image
from stylization_host import snapshots
from stylization_host.load import ROOT

FROZEN = json.loads(snapshots.SCHEMAS.read_text(encoding="utf-8"))
HELP = ROOT / "web" / "docs"
NODES = sorted(FROZEN)


PICTURES = [
    (page.stem, name)
    for page in sorted(HELP.glob("*.md"))
    for name in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
]
"""Pictures of help pages, by page."""


def test_the_schemas_are_as_frozen(client):
    """Renew on purpose only: see snapshots.py."""
    found = snapshots.pack_schemas(client)
    assert json.loads(snapshots.written(found)) == FROZEN


@pytest.mark.parametrize("node", NODES)
def test_a_help_page_is_served_as_it_stands(node, client):
    served = client.get(f"/extensions/stylization/docs/{node}.md")
    assert served.content.decode("utf-8") == (HELP / f"{node}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("page", "name"), PICTURES)
def test_a_picture_of_a_help_page_is_served(page, name, client):
    served = client.get(f"/extensions/stylization/docs/{name}")
    assert served.headers["content-type"].startswith("image/")
    with Image.open(io.BytesIO(served.content)) as picture:
        assert min(picture.size) > 64


def test_every_picture_beside_the_help_pages_is_shown_by_one():
    files = {path.relative_to(HELP).as_posix() for path in HELP.rglob("*") if path.is_file() and path.suffix != ".md"}
    assert {name for _, name in PICTURES} == files
