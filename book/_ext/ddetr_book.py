"""What the book's pages need beyond _config.yml, which cannot read the environment.

`BOOK_REPOSITORY=https://host/owner/name make book` puts the repository button and, for hosts that Binder and Colab
know, the launch buttons on every page. Without it there are none: a made-up address would be worse than no button.
"""

import gc
import os
import re
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config

ADDRESS = re.compile(r"https://[\w.-]+(:\d+)?/[\w./~-]+")


def repository_options(address: str) -> dict[str, Any]:
    """Theme options for a repository's address; none for an empty one.

    Raises:
        ValueError: if the address is not of the form https://host/owner/name.
    """
    address = address.strip().rstrip("/").removesuffix(".git")
    if not address:
        return {}
    if not ADDRESS.fullmatch(address):
        raise ValueError(f"BOOK_REPOSITORY is {address!r}, but expected is an address like https://host/owner/name.")
    options: dict[str, Any] = {"repository_url": address, "use_repository_button": True, "use_issues_button": True}
    if address.startswith("https://github.com/"):
        options["launch_buttons"] = {
            "notebook_interface": "jupyterlab",
            "binderhub_url": "https://mybinder.org",
            "colab_url": "https://colab.research.google.com",
        }
    return options


def add_repository(app: Sphinx, config: Config) -> None:
    """Merge the options of BOOK_REPOSITORY into the theme's options."""
    config.html_theme_options = {
        **config.html_theme_options,
        **repository_options(os.environ.get("BOOK_REPOSITORY", "")),
    }


# What themes and myst-nb write that axe-core rightly finds fault with: a label that is not what the reader sees, and a
# heading of a table that heads nothing.
MENDED = {
    '<summary aria-label="Toggle hidden content">': "<summary>",
    '<th class="head"></th>': '<td class="head"></td>',
    '<th class="head"><p></p></th>': '<td class="head"></td>',
}


def mend(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Mend the markup of a page's body; leave out Thebe, which no page uses and which declares its constants twice."""
    for old, new in MENDED.items():
        context["body"] = context.get("body", "").replace(old, new)
    context["default_mode"] = context.get("default_mode") or "auto"  # an empty one is an error on the console
    context["script_files"] = [
        script
        for script in context.get("script_files", [])
        if "thebe" not in f"{script}{getattr(script, 'attributes', {}).get('body', '')}".lower()
    ]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx; the theme reads its options later than this event."""
    # A page's tree is tens of thousands of objects that all stay: looking through them for cycles at the usual rate
    # slows the rendering and frees next to nothing.
    gc.set_threshold(200_000, 20, 100)
    for extension in ("ddetr_api", "ddetr_map"):
        app.setup_extension(extension)
    app.connect("config-inited", add_repository)
    app.connect("html-page-context", mend, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
