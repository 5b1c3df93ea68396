"""The API pages, one a part, as Markdown: `python nbs/_site.py api` writes them as `nbs/api/PART.qmd` for Quarto, and
the static builder renders the same text.
"""
import ast
import re
import shutil
from functools import lru_cache
from html import escape

from _api import Entry, entries, linked, modules
from _book import book

DESCRIPTION = "Public names with their signatures and parameters, made from the modules."


def table(entry: Entry) -> str:
    "The parameters and their docments, as HTML: types with `|` do not survive in tables of Markdown."
    rows = entry.parameters + ([entry.returns] if entry.returns else [])
    if not rows or not any(row.docment for row in rows): return ""
    code = lambda text: f"<code>{escape(text)}</code>" if text else ""
    said = lambda text: re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))
    cells = [f"<tr><td>{code(row.name) if row is not entry.returns else 'returns'}</td><td>{code(row.type)}</td>"
             f"<td>{code(row.default)}</td><td>{said(row.docment)}</td></tr>" for row in rows]
    return "\n".join(["<table>", "<tr><th></th><th>type</th><th>default</th><th>meaning</th></tr>", *cells, "</table>"])


@lru_cache
def headings() -> dict: # {(module, id of a cell): "[title: heading](../engine/kvcache.ipynb#place)"}
    "The heading of the notebooks that each cell stands under."
    return {(page.module, cell): f"[{page.title}: {text}](../{page.href}#{place})"
            for page in book().values() for cell, (text, place) in page.headings.items()}


def text_of(entry: Entry) -> str:
    "One entry: heading, signature, what it does, parameters, and the way to the page that explains it."
    level, why = ("####", "") if "." in entry.name else ("###", headings().get((entry.module, entry.cell)))
    head = f"{level} {entry.name.replace('__', '&#95;&#95;')} {{#{entry.place}}}"
    code = f"```python\n{'class ' if entry.kind == 'class' else ''}{entry.signature}\n```"
    extends = f"\n\nAlso has what `{entry.extends}` has." if entry.extends else ""
    doc = linked(entry.doc + extends, f"api/{entry.part}.qmd", entry.module)
    return "\n\n".join(filter(None, [head, code, doc, table(entry), why and f"Explained in {why}."]))


def parts() -> list[str]: return list(dict.fromkeys(entry.part for entry in entries()))


def title(part: str) -> str: return f"API: {part}"


def page(part: str) -> str:
    "The Markdown of a part's page."
    text = []
    for module in modules():
        inside = [entry for entry in entries() if entry.module == module.name and entry.part == part]
        about = ast.get_docstring(module.tree) or ""
        if inside: text += [f"## {module.name}", about, *map(text_of, inside)]
    return "\n\n".join(text) + "\n"


def write(folder):
    "The pages for Quarto."
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for part in parts():
        front = f'---\ntitle: "{title(part)}"\ndescription: "{DESCRIPTION}"\n---\n\n'
        (folder / f"{part}.qmd").write_text(front + page(part), encoding="utf8")
