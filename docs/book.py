"""Preprocessor of mdBook: adds the decisions below their index, and adapts links that leave the book.

A page may link to every file of the repository. In the book, such a link becomes its text.
"""

import json
import os
import re
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|`[^`]*`)*)\]\(([^()\s]+)\)")


def chapters(items):
    for item in items:
        if isinstance(item, dict) and "Chapter" in item:
            yield item["Chapter"]
            yield from chapters(item["Chapter"]["sub_items"])


def decision(path, parent, order):
    text = path.read_text()
    title = f"{path.name[:3]} {text.splitlines()[0].removeprefix('# ')}"
    name = f"decisions/{path.name}"
    return {"Chapter": {"name": title, "content": text, "number": parent["number"] + [order], "sub_items": [],
                        "path": name, "source_path": name, "parent_names": [parent["name"]]}}


def adapted(chapter, pages):
    folder = DOCS / Path(chapter["source_path"]).parent

    def link(match):
        text, target = match.groups()
        file, mark, heading = target.partition("#")
        if "://" in target or target.startswith("mailto:") or not file:
            return match.group(0)
        # Text of SECURITY.md is included in a page, with links that start at the root.
        found = next((base / file for base in (folder, ROOT) if (base / file).exists()), None)
        if found is None:
            sys.exit(f"{chapter['path']}: broken link {target}")
        found = found.resolve()
        if found.is_relative_to(DOCS) and (str(found.relative_to(DOCS)) in pages or found.suffix == ".svg"):
            # mdBook renders README.md as index.html.
            page = os.path.relpath(found, folder).replace("README.md", "index.md")
            return f"[{text}]({page}{mark}{heading})"
        if found == ROOT / "SECURITY.md":
            return f"[{text}]({os.path.relpath(DOCS / 'security-model.md', folder)}{mark}{heading})"
        return text

    return LINK.sub(link, chapter["content"])


def main():
    if len(sys.argv) > 2 and sys.argv[1] == "supports":
        return
    _, book = json.load(sys.stdin)
    items = book.get("items", book.get("sections"))
    index = next(chapter for chapter in chapters(items) if chapter["source_path"] == "decisions/README.md")
    files = sorted((DOCS / "decisions").glob("[0-9]*.md"))
    index["sub_items"] = [decision(path, index, order) for order, path in enumerate(files, 1)]
    pages = {chapter["source_path"] for chapter in chapters(items) if chapter["source_path"]}
    for chapter in chapters(items):
        if chapter["source_path"]:
            chapter["content"] = adapted(chapter, pages)
    json.dump(book, sys.stdout)


main()
