"""The glossary (`nbs/glossary.ipynb`): its terms, linked where a numbered chapter uses them first."""
import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from execnb.nbio import read_nb
from nbdev.process import Processor

from _api import NBS

PAGE = "glossary.ipynb"
TERM = re.compile(r"^#### (.+)\n\n(.+?) See \[.+\]\(([^)]+)\)\.$", re.MULTILINE)
# Not linked: fenced code, headings, HTML tags, links, names in backticks, formulas. Then a term, perhaps in the plural.
SKIPPED = r"^```.*?^```|^#+ [^\n]*|<[^<>\n]+>|!?\[[^\]]*\]\([^)]*\)|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]+\$"


class Term(NamedTuple):
    "A term, by its heading's names."
    names: tuple[str, ...]
    place: str                   # id of its heading
    meaning: str
    explained: str               # the page that explains it


@lru_cache
def terms() -> list[Term]:
    "Every term of the page."
    from _book import place_of                 # which needs this module for its processors
    text = "\n\n".join(cell.source for cell in read_nb(NBS / PAGE).cells if cell.cell_type == "markdown")
    return [Term(tuple(head.split(", ")), place_of(head), meaning, page) for head, meaning, page in TERM.findall(text)]


@lru_cache
def known() -> tuple[re.Pattern, dict[str, Term]]:
    "What finds a term in a text, longer names first, and the terms by their names in small letters."
    by_name = {name.lower(): term for term in terms() for name in term.names}
    names = "|".join(re.escape(name) for name in sorted(by_name, key=len, reverse=True))
    flags = re.DOTALL | re.MULTILINE | re.IGNORECASE
    return re.compile(rf"({SKIPPED})|(?<![\w-])({names})(?:s|es)?(?![\w-])", flags), by_name


def linked(
    text: str,  # Markdown
    root: str,  # from its page to the folder of all pages
    done: set,  # places of the terms that the page has linked already; grows
) -> str:
    "The text with each term linked that is not linked yet; the meaning is the link's title."
    found, by_name = known()
    def link(match):
        term = match[2] and by_name[match[2].lower()]
        if not term or term.place in done: return match[0]
        done.add(term.place)
        return f'[{match[0]}]({root}{PAGE}#{term.place} "{term.meaning}")'
    return found.sub(link, text)


class LinkTerms(Processor):
    "nbdev's processor that links terms in numbered chapters; settings.ini names it, so Quarto's pages have them too."
    def begin(self):
        self.done = set()
        self.chapter = bool(re.match(r"\d+\. ", getattr(self.nb, "frontmatter_", {}).get("title", "")))

    def cell(self, cell):
        if cell.cell_type != "markdown" or not self.chapter: return
        href = Path(self.nb.path_).resolve().relative_to(NBS).as_posix()
        cell.source = linked(cell.source, "../" * href.count("/"), self.done)
