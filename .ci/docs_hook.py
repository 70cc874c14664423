"""mkdocs hook: the README is the first page, and files that pages link to are on the site.

In the repository, pages link to each other by paths. The site has docs/ as its root, so that links
between docs/ and the rest get another prefix.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
#: Files outside of docs/ that pages link to; Markdown becomes pages, all else is copied.
OUTSIDE = ('configs/**/*.py', 'configs/README.md', '*.md', 'CITATION.cff', 'LICENSE')
#: Where links start in docs/, in the pages above it and in configs/README.md, and on the site.
DOCS = [(r'\.\./README\.md', 'index.md'), (r'\.\./', '')]
ROOT_PAGES = [(r'README\.md', 'index.md'), ('docs/', '')]
CONFIGS = [(r'\.\./README\.md', '../index.md'), (r'\.\./docs/', '../')]


def on_files(files: Files, config: Any) -> Files:
    """Add the files outside of docs/."""
    for path in sorted(path for pattern in OUTSIDE for path in ROOT.glob(pattern)):
        name = str(path.relative_to(ROOT))
        name = 'index.md' if name == 'README.md' else name
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Change where links start."""
    outside = CONFIGS if page.file.src_uri == 'configs/README.md' else ROOT_PAGES
    for old, new in outside if page.file.generated_by else DOCS:
        markdown = re.sub(rf'(\]\(){old}', rf'\g<1>{new}', markdown)
    return markdown


def on_page_content(html: str, **_: Any) -> str:
    """Leave Sphinx's roles out of docstrings."""
    return re.sub(r':(?:attr|class|func|meth|mod):(?=<code>)', '', html)
