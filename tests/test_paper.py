"""The paper's page and the glossary: nothing is missing, no label points at nothing, and each term is linked once."""
import re
import sys

import pytest

from pages import NBS, notebook

sys.path.insert(0, str(NBS))
import _api  # noqa: E402
import _book  # noqa: E402
import _glossary  # noqa: E402
import _paper  # noqa: E402

CHAPTERS = [page.href for page in _book.road()]


# ---- the paper, line by line -----------------------------------------------------------------------------------------
def test_everything_of_the_paper_has_its_place():
    assert _paper.problems() == []
    assert len(_paper.ITEMS) == 20 and list(_paper.sections()) == list(_paper.ITEMS)


def test_the_page_is_what_the_script_makes():
    wrong = [cell.id for cell in notebook(NBS / "paper.ipynb").cells if _paper.written(cell.source) != cell.source]
    assert not wrong, f"cells {wrong} of paper.ipynb are not what the labels say: run `make readme`"


@pytest.mark.parametrize("item", [item for item in _paper.ITEMS if item.startswith(("eq", "listing"))])
def test_docstrings_name_what_they_implement(item):
    made = [entry for found in _paper.of(item).values() for label in found for entry in label.functions]
    assert any(_paper.ITEMS[item] in entry.doc for entry in made), f"none of {[entry.name for entry in made]} names it"


@pytest.mark.parametrize("item", _paper.ITEMS)
def test_a_line_ran_and_showed_something(item):
    cells = [label.cell for label in _paper.labels() if label.item == item and label.page.href == "paper.ipynb"]
    saved = {cell.id: cell for cell in notebook(NBS / "paper.ipynb").cells}
    assert all(saved[cell.id].outputs for cell in cells), f"{item} has no saved output: run paper.ipynb"


@pytest.mark.parametrize("directive, said", [("#| paper eq-9", "the paper has no eq-9"),
                                             ("#| export\n#| paper eq-1", "no public function")])
def test_a_label_of_nothing_is_found(monkeypatch, directive, said):
    page = _book.Page("engine/lcm.ipynb", "Engine")
    private = next(cell for cell in page.source.cells if "def _one_of" in cell.source)
    private.source = private.source.replace("#| export", directive)
    monkeypatch.setattr(_paper, "book", lambda: {**_book.book(), page.href: page})
    problem, = _paper.problems()
    assert problem.startswith(f"engine/lcm.ipynb, cell {private.id}: ") and said in problem


@pytest.mark.parametrize("page, item", [("judge/slices.ipynb", "fig-3"), ("paper.ipynb", "fig-3")])
def test_a_missing_label_is_found(monkeypatch, page, item):
    book = {**_book.book(), page: _book.Page(page, "Judging")}
    for cell in book[page].source.cells: cell.source = cell.source.replace(f"#| paper {item}\n", "")
    monkeypatch.setattr(_paper, "book", lambda: book)
    assert any("Fig. 3" in problem for problem in _paper.problems())


def test_modules_do_not_show_labels():
    assert not [path for path in _api.PACKAGE.rglob("*.py") if "#| paper" in path.read_text(encoding="utf8")]


# ---- the glossary ----------------------------------------------------------------------------------------------------
def test_forty_terms_each_with_its_page():
    terms = _glossary.terms()
    headings = re.findall(r"^#### .+", "\n".join(cell.source for cell in notebook(NBS / "glossary.ipynb").cells), re.M)
    assert len(terms) == len(headings) >= 40
    names = [name.lower() for term in terms for name in term.names]
    assert len(names) == len(set(names))
    for term in terms:
        assert (NBS / term.explained).exists(), term
        assert len(re.findall(r"[.:;] ", term.meaning)) <= 2 and not re.search('["|]', term.meaning), term


def test_first_use_is_linked_and_nothing_else_is():
    done = set()
    text = ("# The mask\n`mask` [the mask](x.ipynb) $mask$ <b title=mask>\n```\nmask\n```\n"
            "unmasked, mask-like; Masks, a mask")
    linked = _glossary.linked(text, "../", done)
    meaning = next(term.meaning for term in _glossary.terms() if "Mask" in term.names)
    assert linked == text.replace("Masks", f'[Masks](../glossary.ipynb#mask "{meaning}")')
    assert done == {"mask"} and _glossary.linked("a mask", "../", done) == "a mask"


@pytest.mark.parametrize("href", CHAPTERS)
def test_a_chapter_links_each_term_once(site, href):
    html = (site / href.replace(".ipynb", ".html")).read_text(encoding="utf8")
    places = re.findall(r'<a href="(?:\.\./)?glossary\.html#([^"]+)" title="[^"]+">', html)
    assert places and len(places) == len(set(places))
    assert set(places) <= {term.place for term in _glossary.terms()}


def test_side_rooms_are_left_alone(site):
    html = (site / "engine/flight.html").read_text(encoding="utf8")
    assert "glossary.html#" not in html
