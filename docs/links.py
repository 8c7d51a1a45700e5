"""A hook of mkdocs: links to the repository's files outside docs/ lead to the repository, and have to exist.

In the checkout and on a code host they are relative links, and work as such.
"""

import logging
import re
from pathlib import Path
from typing import Any

logger = logging.getLogger(f"mkdocs.hooks.{__name__}")
LINK = re.compile(r"\]\((?P<target>\.\./[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Rewrite such links of a page; one that leads nowhere is a warning, which a strict build fails for."""
    inside, root = Path(config.docs_dir), Path(config.config_file_path).parent

    def rewritten(link: re.Match[str]) -> str:
        path = (Path(page.file.abs_src_path).parent / link["target"]).resolve()
        if path.is_relative_to(inside):
            return link[0]
        if not path.is_relative_to(root) or not path.exists():
            logger.warning("%s links to %s, which is not there", page.file.src_uri, link["target"])
            return link[0]
        kind = "tree" if path.is_dir() else "blob"
        return f"]({config.extra['repository']}/{kind}/main/{path.relative_to(root)}{link['anchor'] or ''})"

    return LINK.sub(rewritten, markdown)
