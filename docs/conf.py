"""The settings of the site: ``make docs-site`` reads them. They ask for nothing from the network."""

from __future__ import annotations

import importlib.util
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from docs.book.reference import linkcode_resolve as linkcode_resolve  # noqa: E402

project = "secagg"
author = "the authors of secagg"
project_copyright = "the authors of secagg, Apache-2.0"
release = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
language = "en"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.linkcode",
    "sphinx_copybutton",
    "docs.book.files",
    "docs.book.modules",
    "docs.book.pages",
    "docs.book.reference",
    "docs.book.drawings",
    "docs.book.pictures",
]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]
nitpicky = True

# MyST: the dialect of the pages. Headings have the anchors that GitHub gives them.
myst_enable_extensions = ["attrs_block", "attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 6
myst_url_schemes = ["http", "https", "mailto", "file-of"]
# Short names in annotations may fit several classes; those in docstrings are resolved in docs.book.reference.
suppress_warnings = ["ref.python"]

# Pages with {code-cell} are run at each build. A cell that fails is an error; a page says what it caches: nothing.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 60
nb_merge_streams = True

# Adapters are documented where their framework is not installed too.
autodoc_mock_imports = [name for name in ("flwr", "nvflare", "ray") if importlib.util.find_spec(name) is None]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
add_module_names = False

html_theme = "furo"
html_title = f"secagg {release}"
html_static_path = ["book/static"]
html_css_files = ["book.css"]
html_show_sphinx = False
html_show_search_summary = False  # it fetches pages, which a browser refuses for files
html_search_scorer = str(ROOT / "docs" / "book" / "scorer.js")
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True
