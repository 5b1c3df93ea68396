"""The order of the house. `_quarto.yml` has the order of parts and pages; a module imports from what comes earlier.

Besides: no towers of classes, short modules, lines that fit, one statement a line, and the main road.
"""
import ast
import re
from functools import cache
from pathlib import Path

import pytest

from pages import NBS, PATHS, ROOT, notebook, sidebar

PACKAGE = "live2diff_nb"
LATE = {"cli"}                 # its subcommands may import anything at first use


def modules() -> list[str]:
    "Names of all modules, in the order of the sidebar: `engine.masks`, ..., `cli`."
    names = [href.removesuffix(".ipynb").replace("/", ".") for href in sidebar()]
    return [name for name in names if path_of(name).exists()]


def path_of(name: str) -> Path:
    return ROOT / PACKAGE / f"{name.replace('.', '/')}.py"


@cache
def tree_of(name: str) -> ast.Module:
    return ast.parse(path_of(name).read_text(encoding="utf8"))


def whole_name(node: ast.ImportFrom, here: list[str]) -> str:
    "The module that `from ... import` names, seen from the package `here`."
    return ".".join([*here[: len(here) - node.level + 1], *filter(None, [node.module])]) if node.level else node.module


def imports(name: str) -> list[tuple]:
    "`(line, module, inside a function)` of every import of our own in a module."
    tree, found = tree_of(name), []
    here = [PACKAGE, *name.split(".")[:-1]]
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.Lambda))]
    inner = {node for outer in functions for node in ast.walk(outer)}
    for node in ast.walk(tree):
        targets = []
        if isinstance(node, ast.Import): targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = whole_name(node, here)
            targets = [f"{base}.{alias.name}" for alias in node.names]
        for target in targets:
            own = target.removeprefix(f"{PACKAGE}.")
            hits = [module for module in ORDER if f"{own}.".startswith(f"{module}.")] if own != target else []
            found += [(node.lineno, module, node in inner) for module in hits]
    return sorted(set(found))


ORDER = modules()


def faults(name: str) -> list[str]:
    "What is wrong with the imports of a module, with the line."
    place = ORDER.index(name)
    return [f"{path_of(name).relative_to(ROOT)}:{line} imports {module}, which "
            + ("comes later" if ORDER.index(module) >= place else "is earlier, so import it at the top")
            for line, module, inside in imports(name)
            if ORDER.index(module) >= place or inside and name not in LATE]


def test_every_module_has_a_place():
    files = [path.relative_to(ROOT / PACKAGE) for path in (ROOT / PACKAGE).rglob("*.py")]
    there = {str(path.with_suffix("")).replace("/", ".") for path in files}
    assert {name for name in there if not name.split(".")[-1].startswith("_")} == set(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_imports_go_one_way(name):
    assert not faults(name), "\n".join(faults(name))


# ---- classes -------------------------------------------------------------------------------------------------------
def through(known: dict, end: str) -> tuple:
    "`module.Class` of an imported module; others stay what they are."
    module, _, name = end.rpartition(".")
    return (".".join(filter(None, known.get(module, ("",)))), name)


@cache
def bases() -> dict:
    "`{(module, class): its bases}`: own classes as `(module, class)`, found by the imports of their module."
    found = {}
    for name in ORDER:
        known, here = {}, [PACKAGE, *name.split(".")[:-1]]
        for node in ast.walk(tree_of(name)):
            if isinstance(node, ast.ImportFrom) and (node.level or node.module.startswith(PACKAGE)):
                module = whole_name(node, here).removeprefix(PACKAGE).removeprefix(".")
                known |= {alias.asname or alias.name: (module, alias.name) for alias in node.names}
        for node in tree_of(name).body:
            if isinstance(node, ast.ClassDef):
                known[node.name] = (name, node.name)
                ends = [ast.unparse(base) for base in node.bases]
                found[name, node.name] = [known.get(end) or through(known, end) for end in ends]
    return found


def chain(which: tuple) -> list[tuple]:
    "The longest chain of own classes that ends in this one, the first ancestor first."
    above = [chain(base) for base in bases()[which] if base in bases()]
    return [*max(above, key=len, default=[]), which]


def test_no_tower_of_classes():
    towers = [" <- ".join(map(".".join, chain(which))) for which in bases() if len(chain(which)) > 2]
    assert not towers, "more than one base and its subclass:\n" + "\n".join(towers)


# ---- lines ---------------------------------------------------------------------------------------------------------
def test_modules_are_short():
    lengths = {name: len(path_of(name).read_text(encoding="utf8").splitlines()) for name in ORDER}
    long = {name: length for name, length in lengths.items() if length > 270}
    assert not long, f"lines of a module, 270 at most: {long}"


@cache
def sources() -> dict:
    "Python written by hand, by place: the code cells, of which the modules are made, the tests, the site builder."
    files = [path for folder in ("tests", "nbs") for path in (ROOT / folder).glob("*.py")]
    files += (ROOT / PACKAGE).rglob("__init__.py")
    cells = {f"{path.relative_to(ROOT)}, cell {n}": cell.source for path in PATHS
             for n, cell in enumerate(notebook(path).cells) if cell.cell_type == "code"}
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf8") for path in files} | cells


def others() -> dict:
    "What else is written by hand: scripts, pages and their looks, the Makefile; not what others wrote (`*.min.*`)."
    files = [ROOT / "Makefile", *(ROOT / PACKAGE / "assets").glob("*"), *NBS.glob("*")]
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf8") for path in files
            if path.suffix in (".js", ".css", ".html") and ".min." not in path.name or path.name == "Makefile"}


def test_lines_fit():
    "A figure's text is a directive, which nbdev reads from one line."
    long = [f"{place}:{n} has {len(line)}" for place, text in (sources() | others()).items()
            for n, line in enumerate(text.splitlines(), 1) if len(line) > 120 and not line.startswith("#| fig-alt")]
    assert not long, f"{len(long)} lines of more than 120 characters:\n" + "\n".join(long)


def joined(text: str) -> list[int]:
    "Lines on which a `;` joins two statements."
    try: tree = ast.parse(text)
    except SyntaxError: return []                                              # a cell with a magic command
    blocks = [block for node in ast.walk(tree) for name in ("body", "orelse", "finalbody")
              if isinstance(block := getattr(node, name, None), list)]
    pairs = [pair for block in blocks for pair in zip(block, block[1:])]
    return sorted(after.lineno for before, after in pairs if before.end_lineno == after.lineno)


def test_one_statement_a_line():
    found = [f"{place}:{line}" for place, text in sources().items() for line in joined(text)]
    assert not found, f"{len(found)} lines with two statements:\n" + "\n".join(found)


# ---- the way through -----------------------------------------------------------------------------------------------
ROAD = ["engine/masks", "engine/kvcache", "engine/temporal", "engine/unet", "depth/estimator", "engine/lcm",
        "engine/stream", "pipeline/live2diff", "live/widget", "training/loop", "tiny/denoiser", "judge/evaluate",
        "weights/real", "bench"]
GUIDED = [href for href in sidebar() if href != "index.ipynb" and not href.startswith(("tutorials/", "api/"))]


@pytest.mark.parametrize("href", GUIDED)
def test_page_says_what_it_needs_and_where_to_go_next(href):
    cells = [cell for cell in notebook(NBS / href).cells]
    last = [cell.source for cell in cells if cell.cell_type == "markdown"][-1]
    assert any("**You need:**" in cell.source for cell in cells[:3]), "no `**You need:**` in the first three cells"
    assert "**Next:**" in last, f"no `**Next:**` in the last text: {last[-200:]!r}"


@pytest.mark.parametrize("chapter", ROAD)
def test_a_chapter_asks_for_a_guess(chapter):
    assert any("**Guess" in cell.source for cell in notebook(NBS / f"{chapter}.ipynb").cells)


def test_numbered_pages_are_the_road():
    numbers = {}
    for href in sidebar():
        if found := re.match(r"# (\d+)\. ", notebook(NBS / href).cells[0].source):
            numbers.setdefault(int(found[1]), []).append(href)
    assert numbers == {n: [f"{page}.ipynb"] for n, page in enumerate(ROAD, 1)}
