"""A hook of MkDocs: what a page links to outside of docs/ is part of the site, as the file it is.

GitHub shows such links (`../configs/demo.yaml`) as they are written. The site gets a copy of each file under
`project/`, with `.txt` at its end, so that a browser shows it. A link to a file that does not exist fails the build.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
OUTSIDE = re.compile(r"(?<=\]\()\.\./([^)#\s]+)")


def on_files(files: Files, config: Any) -> Files:
    """Add every file outside of docs/ that a page links to."""
    for page in files.documentation_pages():
        for target in OUTSIDE.findall(page.content_string):
            name = f"project/{target}.txt"
            if (ROOT / target).is_file() and files.get_file_from_path(name) is None:
                files.append(File.generated(config, name, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Point such links to the copies."""
    return OUTSIDE.sub(r"project/\1.txt", markdown)
