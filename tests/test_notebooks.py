"""The notebooks as files: small, executed, without errors, and all of them on the site."""
import re
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT / "nbs"
PATHS = sorted(path for path in NBS.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
HOME = re.compile(r"(?<![\w.])/(?:root|work|tmp|opt|(?:home|Users)/(?!me\b))/?[\w.-]+|[A-Z]:\\\\Users")


@pytest.fixture(params=PATHS, ids=[str(path.relative_to(NBS)) for path in PATHS])
def path(request): return request.param


@pytest.fixture
def notebook(path): return nbformat.read(path, as_version=4)


def outputs(notebook): return [out for cell in notebook.cells if cell.cell_type == "code" for out in cell.outputs]


def text_of(output): return "".join(str(output.get(key, "")) for key in ("text", "traceback")) + str(output.get("data", {}).get("text/plain", ""))


def test_valid_and_small(path, notebook):
    nbformat.validate(notebook)
    assert path.stat().st_size < 1_500_000


def test_starts_with_title_and_description(notebook):
    assert re.match(r"# .+\n+> .+", notebook.cells[0].source)


def test_has_kernel(notebook): assert notebook.metadata.kernelspec.name == "python3"


def test_was_run(path, notebook):
    runs = [cell for cell in notebook.cells if cell.cell_type == "code" and "eval: false" not in cell.source]
    if runs: assert outputs(notebook), "no saved output: run the notebook"


def test_no_errors(notebook): assert not [out for out in outputs(notebook) if out.output_type == "error"]


def test_no_paths_of_one_machine(notebook):
    for cell in notebook.cells: assert not HOME.search(cell.source), cell.source
    for output in outputs(notebook): assert not HOME.search(text_of(output)), text_of(output)


def test_site_lists_every_notebook_once():
    entries = yaml.safe_load((ROOT / "_quarto.yml").read_text())["website"]["sidebar"]["contents"]
    listed = [href for entry in entries for href in ([entry] if isinstance(entry, str) else entry["contents"])]
    listed = [href for href in listed if not href.startswith("api/")]       # made by nbs/_reference.py; tests/test_site.py
    assert sorted(listed) == [str(path.relative_to(NBS)) for path in PATHS]


def test_links_between_notebooks_lead_somewhere(path, notebook):
    for cell in notebook.cells:
        if cell.cell_type != "markdown": continue
        for link in re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", cell.source): assert (path.parent / link).exists(), link


def test_quarto_reads_the_same_configuration():
    assert (NBS / "_quarto.yml").resolve() == ROOT / "_quarto.yml"


def test_packaged_live_notebook_is_the_tutorial():
    assert (ROOT / "live2diff_nb/assets/live.ipynb").read_bytes() == (NBS / "tutorials/live.ipynb").read_bytes()


def test_site_has_a_page_for_every_notebook(site):
    pages = {page.relative_to(site).with_suffix(".ipynb") for page in site.rglob("*.html") if page.parent.name != "api"}
    assert pages == {path.relative_to(NBS) for path in PATHS}
