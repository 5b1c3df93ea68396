"""The notebooks as files: small, executed, without errors, and all of them on the site."""
import re

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
