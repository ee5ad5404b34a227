"""MkDocs hooks: pages and files that live outside ``docs/`` become part of the site, with their links rewritten.

A link in a page is relative to the file that holds it, so that it works in the repository. Here every such
link is resolved to a path in the repository and then written relative to the page of the site.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
#: Path in the repository -> path in the site.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CODE_OF_CONDUCT.md": "code_of_conduct.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "examples/README.md": "examples.md",
    "microforge/pretrained/README.md": "model_card.md",
}
#: Files that pages link to; they are copied.
ASSETS = ("LICENSE", "CITATION.cff", "benchmarks/results/*.json", "examples/*.py", "scripts/*")
_LINK = re.compile(r"(?P<open>\]\()(?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?(?P<close>\))")
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)


def _assets() -> dict[str, str]:
    paths = [path for pattern in ASSETS for path in sorted(ROOT.glob(pattern)) if path.is_file()]
    names = [path.relative_to(ROOT).as_posix() for path in paths]
    return {name: f"files/{name if Path(name).suffix else name + '.txt'}" for name in names}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the outside pages and files to the site."""
    for name, uri in {**PAGES, **_assets()}.items():
        text = (ROOT / name).read_text("utf-8")
        # The model card starts with a block for the Hugging Face hub, whose tags are no business of the site.
        content = _FRONT_MATTER.sub("", text) if name in PAGES else text
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point every relative link of a page at the site's copy of its target."""
    origins = {uri: name for name, uri in PAGES.items()}
    uri = page.file.src_uri
    folder = posixpath.dirname(origins.get(uri, f"docs/{uri}"))
    sites = {**PAGES, **_assets()}

    def rewritten(match: re.Match[str]) -> str:
        target = match["target"]
        if ":" in target:  # an address, not a path
            return match[0]
        name = posixpath.normpath(posixpath.join(folder, target))
        site = sites.get(name) or name.removeprefix("docs/")
        if site.endswith("decisions"):
            site += "/README.md"
        relative = posixpath.relpath(site, posixpath.dirname(uri) or ".")
        return f"{match['open']}{relative}{match['anchor'] or ''}{match['close']}"

    return _LINK.sub(rewritten, markdown)
