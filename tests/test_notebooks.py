"""The notebooks as files: small, executed, without errors, all of them on the site; and what of a good page counts."""
import base64
import re
import struct

import nbformat
import pytest

from pages import NBS, PATHS, ROOT, notebook, sidebar

HOME = re.compile(r"(?<![\w.])/(?:root|work|tmp|opt|(?:home|Users)/(?!me\b))/?[\w.-]+|[A-Z]:\\\\Users")


LIVE = NBS / "tutorials/live.ipynb"                         # a user opens a copy: `make live`, `live2diff-nb live`


@pytest.fixture(params=PATHS, ids=[str(path.relative_to(NBS)) for path in PATHS])
def path(request): return request.param


@pytest.fixture
def page(path): return notebook(path)


def outputs(page): return [out for cell in page.cells if cell.cell_type == "code" for out in cell.outputs]


def text_of(output):
    said = "".join(str(output.get(key, "")) for key in ("text", "traceback"))
    return said + str(output.get("data", {}).get("text/plain", ""))


def test_valid_and_small(path, page):
    nbformat.validate(page)
    assert path.stat().st_size < 1_500_000


def test_starts_with_title_and_description(page):
    assert re.match(r"# .+\n+> .+", page.cells[0].source)


def test_has_kernel(page): assert page.metadata.kernelspec.name == "python3"


def test_was_run(path, page):
    runs = [cell for cell in page.cells if cell.cell_type == "code" and "eval: false" not in cell.source]
    if runs and path != LIVE: assert outputs(page), "no saved output: run the notebook"


def test_no_page_hides_the_warnings_of_others(page):
    "Pages are run in one process: a filter for all warnings would stay when the page is over."
    for cell in page.cells:
        assert not re.search(r"^warnings\.(filterwarnings|simplefilter)\([^,]*\)", cell.source, re.M), cell.source


def test_no_errors(page): assert not [out for out in outputs(page) if out.output_type == "error"]


def test_no_paths_of_one_machine(page):
    for cell in page.cells: assert not HOME.search(cell.source), cell.source
    for output in outputs(page): assert not HOME.search(text_of(output)), text_of(output)


def test_links_between_notebooks_lead_somewhere(path, page):
    for cell in page.cells:
        if cell.cell_type != "markdown": continue
        for link in re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", cell.source): assert (path.parent / link).exists(), link


# ---- a good page ---------------------------------------------------------------------------------------------------
def markdown(page): return [cell.source for cell in page.cells if cell.cell_type == "markdown"]


def words(text):
    "Words of the prose: not those of code, formulas, tables, and addresses."
    text = re.sub(r"```.*?```|<!--.*?-->|\$\$.*?\$\$", "", text, flags=re.DOTALL)
    text = re.sub(r"\]\([^)]*\)", "]", re.sub(r"^\|.*$|<[^>]+>", "", text, flags=re.MULTILINE))
    return [word for word in text.split() if re.search(r"\w", word)]


def test_text_cells_are_short(page):
    long = {text[:60]: len(words(text)) for text in markdown(page) if len(words(text)) > 120}
    assert not long, f"words of a cell, 120 at most: {long}"


def test_page_asks_a_question(path, page):
    if path not in (LIVE, NBS / "index.ipynb"): assert "?" in " ".join(markdown(page)[:3]), "no question at the top"


LIMITS = re.compile(r"^## What .*(?:do(?:es)? not (?:show|say)|leaves out)$", re.MULTILINE)


def test_page_says_what_it_does_not_show(path, page):
    if path == NBS / "index.ipynb": return
    assert any(LIMITS.search(text) for text in markdown(page)[-2:]), "no `## What this page does not show` at the end"


def test_a_formula_is_computed_within_two_cells(page):
    for n, cell in enumerate(page.cells):
        if cell.cell_type == "markdown" and "$$" in cell.source:
            assert any(after.cell_type == "code" for after in page.cells[n + 1:n + 3]), cell.source


def test_a_picture_has_a_text_and_can_be_seen(page):
    "Its text says more than a title; moving figures bring their own. No cell shows a strip of a few pixels."
    for cell in page.cells:
        data = [output.get("data", {}) for output in cell.get("outputs", [])]
        alt = re.search(r"^#\| fig-alt: (.+)$", cell.source, re.MULTILINE)
        for picture in (base64.b64decode(one["image/png"]) for one in data if "image/png" in one):
            assert alt and len(words(alt[1])) >= 7, f"no `#| fig-alt`, or a short one: {cell.source[:200]}"
            width, height = struct.unpack(">II", picture[16:24])
            assert height >= 90, f"{width} x {height} pixels: {cell.source[:200]}"
        for tag in (tag for one in data for tag in re.findall(r"<img\b[^>]*>", "".join(one.get("text/html", "")))):
            assert re.search(r'alt="[^"]{20,}', tag), tag[:200]


def test_red_and_green_are_not_the_difference(page):
    "No colours by those names, and no colour maps from the one to the other."
    for cell in page.cells:
        if "plt." in cell.source or "ax" in cell.source:
            found = re.search(r"""["'](?:tab:)?(?:red|green)["']|RdYlGn|RdGn|["']jet["']""", cell.source)
            assert not found, cell.source


def test_site_lists_every_notebook_once():
    assert sorted(sidebar()) == [str(path.relative_to(NBS)) for path in PATHS]


def test_quarto_reads_the_same_configuration():
    assert (NBS / "_quarto.yml").resolve() == ROOT / "_quarto.yml"


def test_packaged_live_notebook_is_the_tutorial():
    assert (ROOT / "live2diff_nb/assets/live.ipynb").read_bytes() == LIVE.read_bytes()


def test_live_notebook_is_for_its_user():
    "No test in sight, no output of somebody else's run, and no picture that is not beside it."
    for cell in notebook(LIVE).cells:
        assert not re.search(r"assert|IN_TEST|#\| hide|test_|!\[", cell.source), cell.source
        if cell.cell_type == "code": assert not cell.outputs and cell.execution_count is None, cell.source
