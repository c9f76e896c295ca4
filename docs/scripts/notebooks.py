"""Pages of the site from the notebooks: a hook of mkdocs, which shows cells and what they gave as they are stored.

A notebook is shown as it was run last; tests run it again (``tests/lab/test_notebook.py``).  Nothing is executed here.  Links to
a notebook lead to its page, which links to the file.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PAGE = ".md"
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    """Add a page, and its pictures, for every notebook."""
    for path in sorted(Path(config.docs_dir).glob("notebooks/*.ipynb")):
        pictures: dict[str, bytes] = {}
        text = "\n".join(_page(path, pictures))
        files.append(File.generated(config, f"notebooks/{path.stem}{PAGE}", content=text))
        for name, content in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to notebooks become links to their pages; that of the page to its file, which has a title, stays."""
    return re.sub(r"\]\(([\w./-]*\w)\.ipynb\)", rf"](\1{PAGE})", markdown)


def _page(path: Path, pictures: dict[str, bytes]) -> Iterator[str]:
    """Markdown, line by line; ``pictures`` gets the plots by the names that they are shown under."""
    title = ""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            first = not title
            title = next(iter(re.findall(r"^#+ (.*)", source, re.MULTILINE)), title)
            yield f"{source}\n"
            if first:
                yield f'*A notebook: [{path.name}]({path.name} "the file"), shown as it was run last.*\n'
        elif cell["cell_type"] == "code":
            yield f"```python\n{source}\n```\n"
            for output in cell["outputs"]:
                yield from _output(output, path.stem, title, pictures)


def _output(output: dict[str, Any], stem: str, title: str, pictures: dict[str, bytes]) -> Iterator[str]:
    data = output.get("data", {})
    if "image/png" in data:
        name = f"{stem}-{len(pictures) + 1}.png"
        pictures[name] = base64.b64decode(data["image/png"])
        yield f"![Plot: {title}]({name})\n"
        return
    text = _ESCAPES.sub("", "".join(output.get("text") or data.get("text/plain", ""))).rstrip()
    if text:
        yield f"```text\n{text}\n```\n"
