"""The page "The paper, line by line" (`nbs/paper.ipynb`): which cells compute or show what of the paper.

A cell says so in a directive, `#| paper eq-2`, which nbdev leaves out of the modules. `python nbs/_site.py readme`
brings the page's table and its lists of places up to date.
"""
import re
from typing import NamedTuple

from execnb.nbio import read_nb, write_nb

from _api import Entry, NBS, entries
from _book import Page, book, place_of

PAGE = "paper.ipynb"
KINDS = {"eq": ("Eq.", 3), "fig": ("Fig.", 8), "table": ("Table", 4), "listing": ("Listing", 5)}   # what the paper has
ITEMS = {f"{kind}-{n}": f"{word} {n}" for kind, (word, count) in KINDS.items() for n in range(1, count + 1)}
LABEL = re.compile(r"^#\| paper (.+)$", re.MULTILINE)
PLACE = re.compile(r"(<!-- paper:([\w-]+) -->\n).*?(\n<!-- paper:end -->)", re.DOTALL)


class Label(NamedTuple):
    "A cell that computes or shows something of the paper."
    item: str                    # eq-2
    page: Page
    cell: dict

    @property
    def functions(self) -> list[Entry]:
        "The public functions and classes that the cell defines."
        return [entry for entry in entries() if (entry.module, entry.cell) == (self.page.module, self.cell.id)
                and "." not in entry.name and entry.kind != "constant"]

    @property
    def heading(self) -> tuple[str, str]:
        "The heading that the cell stands under, and its id."
        return self.page.headings.get(self.cell.id, (self.page.title, ""))

    @property
    def said(self) -> str: return f"{self.page.href}, cell {self.cell.id}"


def labels() -> list[Label]:
    "Every label of every page, in the order of the sidebar."
    return [Label(item, page, cell) for page in book().values() for cell in page.source.cells
            if cell.cell_type == "code" for line in LABEL.findall(cell.source) for item in line.split()]


def of(item: str) -> dict[str, list[Label]]:
    "The labels of an item outside the page, by page."
    found = {}
    for label in labels():
        if label.item == item and label.page.href != PAGE: found.setdefault(label.page.href, []).append(label)
    return found


def link(label: Label, text: str) -> str:
    "To the heading that a cell stands under, or to its page."
    return f"[{text}]({label.page.href}{'#' * bool(label.heading[1])}{label.heading[1]})"


def names(found: list[Label]) -> str:
    "The functions of some labels, as names that the site links to the API."
    return ", ".join(f"`{entry.module}.{entry.name}`" for label in found for entry in label.functions)


def places(item: str) -> str:
    "Where an item is: a line a page, with the functions, and the headings that what is shown stands under."
    lines = []
    for found in of(item).values():
        shown = [link(label, label.heading[0]) for label in found if not label.functions]
        parts = [names(found), shown and "shown under " + ", ".join(shown)]
        lines.append(f"- {link(found[0], found[0].page.title)}: " + "; ".join(filter(None, parts)))
    return "\n".join(lines)


def sections() -> dict[str, str]:
    "The heading over each item's section on the page: `Eq. 2: temporal self-attention`."
    texts = {match[2]: text for text in book()[PAGE].texts for match in PLACE.finditer(text)}
    return {item: re.search(r"^### (.+)", texts[item], re.MULTILINE)[1] for item in ITEMS if item in texts}


def table() -> str:
    "All items: what it is, the chapter, the functions."
    rows = []
    for item, heading in sections().items():
        name, _, what = heading.partition(": ")
        first = [found[0] for found in of(item).values()]
        pages = ", ".join(link(label, label.page.title) for label in first)
        rows.append(f"| [{name}](#{place_of(heading)}) | {what} | {pages} |")
    return "\n".join(["| in the paper | what it is | here |", "|---|---|---|", *rows])


def written(text: str) -> str:
    "A text of the page with what is between its marks brought up to date."
    def new(match): return f"{match[1]}\n{table() if match[2] == 'all' else places(match[2])}\n{match[3]}"
    return PLACE.sub(new, text)


def problems() -> list[str]:
    "What is missing, and labels that point at nothing."
    here = {label.item for label in labels() if label.page.href == PAGE}
    found = [f"{label.said}: the paper has no {label.item}" for label in labels() if label.item not in ITEMS]
    found += [f"{label.said}: exported, but no public function or class" for label in labels()
              if re.search(r"^#\| export", label.cell.source, re.MULTILINE) and not label.functions]
    for item, name in ITEMS.items():
        if not of(item): found.append(f"{name}: no cell outside {PAGE} has the label {item}")
        if item not in sections(): found.append(f"{name}: {PAGE} has no section with the mark paper:{item}")
        elif not sections()[item].startswith(f"{name}: "): found.append(f"{name}: its section has another name")
        if item not in here: found.append(f"{name}: no line of {PAGE} runs it, label {item}")
    return found


def write():
    "Bring the page up to date."
    nb = read_nb(NBS / PAGE)
    for cell in nb.cells: cell.source = written(cell.source)
    write_nb(nb, NBS / PAGE)
