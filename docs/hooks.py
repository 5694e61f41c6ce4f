"""For MkDocs: links from a page to a file of the repository outside docs/."""

from __future__ import annotations

import re
from typing import Any

OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+([^)\s]+)\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """They lead to the repository where its address is set (``repo_url``), else only their text stays. README's parts
    are pages here."""

    def replaced(match: re.Match[str]) -> str:
        text, target = match.groups()
        if target.startswith("README.md"):
            return f"[{text}]({'results' if target.endswith('#results') else 'index'}.md)"
        return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{target})" if config.repo_url else text

    return OUTSIDE.sub(replaced, markdown)


def on_page_content(html: str, *, page: Any, config: Any, files: Any) -> str:
    """Docstrings name methods as ``:meth:`sample` ``; on a page the name is enough."""
    return re.sub(r":(?:meth|class|func|mod):(?=<)", "", html)
