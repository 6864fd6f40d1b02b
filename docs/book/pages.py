"""Pages that are written by hand in HTML: the site carries docs/pages as it is, in its folder ``pages``.

They open from the disk without the site too, so their scripts and tables lie beside them.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from sphinx.application import Sphinx

PAGES = Path(__file__).resolve().parent.parent / "pages"


def copy(app: Sphinx, error: Exception | None) -> None:
    """Copy the pages into the site, after a build that has not failed."""
    if error is None and app.builder.format == "html":
        shutil.copytree(PAGES, Path(app.outdir) / "pages", dirs_exist_ok=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.connect("build-finished", copy)
    return {"parallel_read_safe": True}
