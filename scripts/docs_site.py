"""The hook of mkdocs.yml: pages that stand outside docs/, a page a room with the picture of the house, and their links.

CONTRIBUTING, CHANGELOG and NOTICE stand where people look for them in a checkout and become pages of the site as they
are. A room's page is the docstring of its `__init__` and the first line of each of its modules: nothing that could
differ from the code. Links to source files, which the site does not hold, become the path that they name.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation, Section
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "psla"
OUTSIDE = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "NOTICE": "notice.md"}
# In the order of the house, with what a room hands on to the next.
ROOMS = {
    "audio": "blocks of int16",
    "data": "clips, labels",
    "corpora": "clips",
    "synth": "soundscapes",
    "metrics": "scores",
    "model": "probabilities",
    "weights": "models",
    "techniques": "plans, labels",
    "report": "pages, pictures",
    "training": "runs",
    "tagging": "results, events",
    "lab": "verdicts",
    "export": "ONNX files",
    "serve": "answers",
    "cluster": "tasks",
    "cli": "text",
}


def picture(room: str) -> str:
    """The house as an inline SVG, this room marked: a room imports from those before it alone."""
    width, height, columns = 150, 58, 4
    boxes = []
    there = [each for each in ROOMS if (SOURCE / each).is_dir()]
    for position, name in enumerate(there):
        gives = ROOMS[name]
        x, y = position % columns * width, position // columns * height
        fill = "var(--md-accent-fg-color)" if name == room else "var(--md-code-bg-color)"
        ink = "var(--md-accent-bg-color, #fff)" if name == room else "var(--md-typeset-color)"
        then = "›" if position + 1 < len(there) else ""
        boxes.append(
            f'<a href="../{name}/"><rect x="{x + 4}" y="{y + 4}" width="{width - 18}" height="{height - 14}" rx="4" '
            f'fill="{fill}"/><text x="{x + 14}" y="{y + 23}" fill="{ink}" font-weight="600">{name}/</text>'
            f'<text x="{x + 14}" y="{y + 39}" fill="{ink}" font-size="11">{gives}</text></a>'
            f'<text x="{x + width - 12}" y="{y + 30}" fill="currentColor">{then}</text>'
        )
    rows = -(-len(there) // columns)
    title = f"The rooms of the house in order; this page is {room}/"
    return (
        f'<svg viewBox="0 0 {width * columns} {height * rows}" role="img" aria-label="{title}" font-size="13" '
        f'style="max-width:100%;height:auto">{"".join(boxes)}</svg>'
    )


def room_page(room: str) -> str:
    """What lives in a room, from its own docstrings."""
    folder = SOURCE / room
    about = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    rows = []
    for path in sorted(folder.rglob("*.py")):
        words = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        if path != folder / "__init__.py" and words:
            first = " ".join(words.split("\n\n")[0].split()).replace("|", "\\|")
            rows.append(f"| `{path.relative_to(folder).as_posix()}` | {first} |")
    table = "\n".join(["| file | what |", "|---|---|", *rows]) if rows else ""
    return (
        f"# {room}/\n\n{picture(room)}\n\n{about}\n\n{table}\n\n[Two walks](../architecture.md) follow a recording and "
        "a label through the rooms.\n"
    )


def reference_page() -> str:
    """Each public name of psla under its own heading."""
    tree = ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8"))
    tables = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Dict)
    }
    blocks = [f"::: {module}.{name}" for name, module in tables["_NAMES"].items()]
    modules = "\n".join(f"| `psla.{name}` | `{module}` |" for name, module in tables["_MODULES"].items())
    return (
        "# Reference\n\nThe public names of `psla`, from their docstrings. Modules that are public as a whole:\n\n"
        f"| name | module |\n|---|---|\n{modules}\n\n" + "\n\n".join(blocks) + "\n"
    )


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Pages from outside docs/, one a room, and the reference."""
    pages = {page: (ROOT / name).read_text(encoding="utf-8") for name, page in OUTSIDE.items()}
    pages["notice.md"] = f"# Licences of others\n\n```\n{pages['notice.md']}\n```\n"
    pages |= {f"house/{room}.md": room_page(room) for room in ROOMS if (SOURCE / room).is_dir()}
    pages["reference.md"] = reference_page()
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_nav(nav: Navigation, config: MkDocsConfig, files: Files) -> Navigation:
    """The rooms' pages, in the order of the house, under "How it works"."""
    section = next(item for item in nav.items if item.title == "How it works")
    rooms = [file for room in ROOMS if (file := files.get_file_from_path(f"house/{room}.md"))]
    house = Section("A page a room", [file.page or Page(file.src_uri[6:-3] + "/", file, config) for file in rooms])
    house.parent = section
    for page in house.children:
        page.parent = house
        nav.pages.append(page)
    section.children.append(house)
    return nav


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links that lead out of docs/: to a page of the site, or, of source files, to the path alone."""
    up = "../" * page.file.src_uri.count("/")
    for name, target in OUTSIDE.items():
        markdown = re.sub(rf"\]\((?:\.\./)+{re.escape(name)}(#[^)]*)?\)", rf"]({up}{target}\1)", markdown)
    if page.file.src_uri in OUTSIDE.values():
        markdown = re.sub(r"\]\(docs/([^)]*)\)", r"](\1)", markdown)
        for name, target in OUTSIDE.items():
            markdown = re.sub(rf"\]\({re.escape(name)}(#[^)]*)?\)", rf"]({target}\1)", markdown)
    return re.sub(r"\[([^\]]*)\]\((?:\.\./)*(?:src|tests|scripts|benchmarks|examples)/[^)]*\)", r"\1", markdown)


class Examples(griffe.Extension):
    """The sections `Example:` of the docstrings under the name that the reader of docstrings knows."""

    def on_object(self, *, obj: griffe.Object, **given: object) -> None:
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
