"""The order of the house: a module imports from earlier parts, or from earlier pages of its own part. `_quarto.yml` has the order."""
import ast
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "live2diff_nb"
LATE = {"cli", "bench"}        # the commands may import anything at first use


def modules() -> list[str]:
    "Names of all modules, in the order of the sidebar: `engine.masks`, ..., `cli`."
    entries = yaml.safe_load((ROOT / "_quarto.yml").read_text())["website"]["sidebar"]["contents"]
    pages = [href for entry in entries if isinstance(entry, dict) for href in entry["contents"]]
    names = [href.removesuffix(".ipynb").replace("/", ".") for href in pages]
    return [name for name in names if path_of(name).exists()]


def path_of(name: str) -> Path:
    return ROOT / PACKAGE / f"{name.replace('.', '/')}.py"


def imports(name: str) -> list[tuple]:
    "`(line, module, inside a function)` of every import of our own in a module."
    tree, found = ast.parse(path_of(name).read_text()), []
    here = [PACKAGE, *name.split(".")[:-1]]
    inner = {node for outer in ast.walk(tree) if isinstance(outer, (ast.FunctionDef, ast.Lambda)) for node in ast.walk(outer)}
    for node in ast.walk(tree):
        targets = []
        if isinstance(node, ast.Import): targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*here[: len(here) - node.level + 1], *filter(None, [node.module])]) if node.level else node.module
            targets = [f"{base}.{alias.name}" for alias in node.names]
        for target in targets:
            own = target.removeprefix(f"{PACKAGE}.")
            if own != target: found += [(node.lineno, module, node in inner) for module in ORDER if own == module or own.startswith(module + ".")]
    return found


ORDER = modules()


def faults(name: str) -> list[str]:
    "What is wrong with the imports of a module, with the line."
    place = ORDER.index(name)
    return [f"{path_of(name).relative_to(ROOT)}:{line} imports {module}, which "
            + ("comes later" if ORDER.index(module) >= place else "is earlier, so import it at the top")
            for line, module, inside in imports(name)
            if ORDER.index(module) >= place or inside and name not in LATE]


def test_every_module_has_a_place():
    there = {str(p.relative_to(ROOT / PACKAGE).with_suffix("")).replace("/", ".") for p in (ROOT / PACKAGE).rglob("*.py")}
    assert {name for name in there if not name.split(".")[-1].startswith("_")} == set(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_imports_go_one_way(name):
    assert not faults(name), "\n".join(faults(name))
