"""The public names of the package, read from its modules: what the API pages show and what names in the prose link to.

Nothing is imported: signatures, docments (the comment on a parameter's line, or the comment lines above it) and
docstrings are in the text.
"""
import ast
import io
import re
import tokenize
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from textwrap import shorten

import yaml
from nbdev.process import Processor

NBS = Path(__file__).resolve().parent
ROOT = NBS.parent
PACKAGE = ROOT / "live2diff_nb"
CONFIG = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf8"))
TOP = "commands"                     # the page of the modules that are in no part
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
CELL = re.compile(r"^# %% \S+ #(\w+)$")
# Not linked in Markdown: fenced code, headings, HTML tags, and what is a link already. Then a name in backticks.
NAME = re.compile(r"(^```.*?^```|^#+ [^\n]*|<[^<>\n]+>|\[[^\]]*\]\([^)]*\))"
                  r"|(?<!`)`([A-Za-z_][\w.]*)(?:\(\))?`(?!`)", re.DOTALL | re.MULTILINE)


@dataclass
class Parameter:
    "A parameter of a function, a field of a class, or what is returned."
    name: str
    type: str = ""
    default: str = ""
    docment: str = ""


@dataclass
class Entry:
    "A public function, class, method, property or constant."
    module: str                      # engine.kvcache
    name: str                        # ring_state, KVCache.write
    kind: str                        # function, class, property, constant
    signature: str
    doc: str
    cell: str                        # id of the notebook's cell that defines it
    parameters: list[Parameter] = field(default_factory=list)
    returns: Parameter | None = None
    extends: str = ""                # the base, where it is one of ours

    @property
    def part(self) -> str: return self.module.split(".")[0] if "." in self.module else TOP

    @property
    def place(self) -> str: return f"{self.module}.{self.name}".replace("__", "")      # `__` is bold in Markdown

    @property
    def address(self) -> str: return f"api/{self.part}.qmd#{self.place}"


# ---- reading ---------------------------------------------------------------------------------------------------------
class Module:
    "A module's text, its comments by line, and its public names."
    def __init__(self, path: Path):
        self.name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        text = path.read_text(encoding="utf8")
        self.lines, self.tree = text.splitlines(), ast.parse(text)
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        self.comments = {token.start[0]: token.string.lstrip("# ").strip()
                         for token in tokens if token.type == tokenize.COMMENT}
        self.public = next((ast.literal_eval(node.value) for node in self.tree.body
                            if isinstance(node, ast.Assign) and source(node.targets[0]) == "__all__"), [])

    def docment(self, line: int) -> str:
        "The comment on a line, or the lines of comment right above it."
        if line in self.comments: return self.comments[line]
        found = []
        while line - 1 in self.comments and re.match(r"\s*#(?! %%)", self.lines[line - 2]):
            line -= 1
            found.insert(0, self.comments[line])
        return " ".join(found)

    def cell(self, line: int) -> str:
        return next((mark[1] for text in reversed(self.lines[:line]) if (mark := CELL.match(text))), "")

    def parameters(self, function) -> list[Parameter]:
        "Every parameter but `self` or `cls`; of several on one line none has a docment."
        args = function.args
        plain = [*args.posonlyargs, *args.args]
        with_default = [*plain[len(plain) - len(args.defaults):], *args.kwonlyargs]
        defaults = dict(zip(with_default, [*args.defaults, *args.kw_defaults]))
        stars = [(arg, star) for arg, star in ((args.vararg, "*"), (args.kwarg, "**")) if arg]
        found = [(arg, "") for arg in plain + args.kwonlyargs if arg.arg not in ("self", "cls", "ctx")] + stars
        lines = [arg.lineno for arg, _ in found]
        return [Parameter(star + arg.arg, source(arg.annotation), source(defaults.get(arg)),
                          self.docment(arg.lineno) if lines.count(arg.lineno) == 1 else "")
                for arg, star in sorted(found, key=lambda pair: (pair[0].lineno, pair[0].col_offset))]

    def entry(self, node, owner: str = "") -> Entry:
        "A function or a method."
        name, parameters = owner + node.name, self.parameters(node)
        shape = written(name, parameters, f" -> {source(node.returns)}" if node.returns else "")
        apart = node.returns and node.returns.lineno not in [arg.lineno for arg in node.args.args]
        said = self.docment(node.returns.lineno) if apart else ""
        returns = Parameter("returns", source(node.returns), "", said) if said else None
        doc = ast.get_docstring(node) or ""
        return Entry(self.name, name, "function", shape, doc, self.cell(node.lineno), parameters, returns)

    def made_with(self, node) -> list[Parameter]:
        "What a class is made with: the parameters of `__init__`, the fields of a data class, or those of its base."
        start = next((item for item in node.body if isinstance(item, FUNCTION) and item.name == "__init__"), None)
        if start: return self.parameters(start)
        fields = [item for item in node.body if isinstance(item, ast.AnnAssign) and not item.target.id.startswith("_")]
        if fields:
            return [Parameter(item.target.id, source(item.annotation), source(item.value), self.docment(item.lineno))
                    for item in fields]
        base = next((classes()[name] for name in map(source, node.bases) if name in classes()), None)
        return base[0].made_with(base[1]) if base else []

    def overridden(self, node, name: str) -> list[Parameter]:
        "Parameters of the method of a base of ours that this one stands for: their docments are written there."
        bases = [classes()[base] for base in map(source, node.bases) if base in classes()]
        return next((module.parameters(item) for module, base in bases for item in base.body
                     if isinstance(item, FUNCTION) and item.name == name), [])

    def class_entries(self, node) -> list[Entry]:
        "A class, its public methods and its properties."
        parameters, doc = self.made_with(node), ast.get_docstring(node) or ""
        shape = written(node.name, parameters) if parameters else node.name
        found = [Entry(self.name, node.name, "class", shape, doc, self.cell(node.lineno), parameters)]
        found[0].extends = next((name for name in map(source, node.bases) if name in classes()), "")
        for item in node.body:
            if not isinstance(item, FUNCTION): continue
            if item.name.startswith("_") and item.name != "__call__": continue
            marks = {mark.split(".")[-1] for mark in map(source, item.decorator_list)}
            if marks & {"setter", "deleter"}: continue
            found.append(self.entry(item, node.name + "."))
            if above := self.overridden(node, item.name): found[-1].parameters = above
            if marks & {"property", "cached_property"}:
                found[-1].kind, found[-1].signature = "property", found[-1].signature.replace("()", "", 1)
        return found

    def entries(self) -> list[Entry]:
        "All public names, in the order of the module."
        found = []
        for node in self.tree.body:
            if isinstance(node, FUNCTION) and node.name in self.public: found.append(self.entry(node))
            elif isinstance(node, ast.ClassDef) and node.name in self.public: found += self.class_entries(node)
            elif isinstance(node, (ast.Assign, ast.AnnAssign)): found += self.constants(node)
        return found

    def constants(self, node) -> list[Entry]:
        "The public names of an assignment."
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names = [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
        return [Entry(self.name, name, "constant", f"{name} = {shorten(source(node.value), 100 - len(name))}",
                      self.docment(node.lineno), self.cell(node.lineno)) for name in names if name in self.public]


def source(node) -> str: return ast.unparse(node) if node else ""


def written(name: str, parameters: list[Parameter], returns: str = "") -> str:
    "A signature: on one line where it fits."
    equals = lambda one: (" = " if one.type else "=") + one.default if one.default else ""
    parts = [one.name + (f": {one.type}" if one.type else "") + equals(one) for one in parameters]
    line = f"{name}({', '.join(parts)}){returns}"
    return line if len(line) <= 100 or not parts else f"{name}(\n    " + ",\n    ".join(parts) + f",\n){returns}"


def sidebar_pages() -> list[tuple[str, str]]:
    "(section or '', href) of the sidebar of `_quarto.yml`, in order; API pages included."
    pages = []
    for entry in CONFIG["website"]["sidebar"]["contents"]:
        if isinstance(entry, str): pages.append(("", entry))
        else: pages += [(entry["section"], href) for href in entry["contents"]]
    return pages


@lru_cache
def modules() -> list[Module]:
    "All modules, in the order of the sidebar."
    paths = [PACKAGE / href.replace(".ipynb", ".py") for _, href in sidebar_pages()]
    return [Module(path) for path in paths if path.suffix == ".py" and path.exists()]


@lru_cache
def classes() -> dict[str, tuple]:
    "`(module, definition)` of each class by its name."
    return {node.name: (module, node) for module in modules() for node in module.tree.body
            if isinstance(node, ast.ClassDef)}


@lru_cache
def entries() -> list[Entry]: return [entry for module in modules() for entry in module.entries()]


# ---- from the prose to the API ---------------------------------------------------------------------------------------
@lru_cache
def known() -> dict[str, list[Entry]]:
    "The entries that a name, alone or with its module, may mean; a method also by the classes that extend its own."
    found = {}
    extending = {}
    for entry in entries():
        if entry.extends: extending.setdefault(entry.extends, []).append(entry.name)
        for name in (entry.name, f"{entry.module}.{entry.name}"): found.setdefault(name, []).append(entry)
    for entry in [entry for entry in entries() if "." in entry.name]:
        owner, method = entry.name.split(".")
        for name in extending.get(owner, []): found.setdefault(f"{name}.{method}", [entry])
    return found


def meant(name: str, module: str) -> Entry | None:
    "What a name means on a module's page: its own, its part's, or the only one. A plain word means its own only."
    choices = known().get(name, [])
    for near in (module, module.split(".")[0], ""):
        chosen = [entry for entry in choices if f"{entry.module}.".startswith(f"{near}." if near else "")]
        if len(chosen) == 1: return chosen[0]
        if re.fullmatch("[a-z]+", name): return None
    return None


def address_of(name: str, module: str) -> str | None:
    "Where the API has a name, or a module as `engine.masks`."
    if "." in name and any(one.name == name for one in modules()): return f"api/{name.split('.')[0]}.qmd#{name}"
    entry = meant(name, module)
    return entry.address if entry else None


def linked(text: str, href: str, module: str) -> str:
    "Markdown of the page `href` in which the first mention of each public name leads to the API."
    done = {None}
    def link(match):
        address = match[2] and address_of(match[2], module)
        if not match[2] or address in done: return match[0]
        done.add(address)
        return f"[{match[0]}]({'../' * href.count('/')}{address})"
    return NAME.sub(link, text)


class LinkNames(Processor):
    "nbdev's processor that links names in text cells; settings.ini names it, so Quarto's pages have the links too."
    def cell(self, cell):
        if cell.cell_type != "markdown": return
        href = Path(self.nb.path_).resolve().relative_to(NBS).as_posix()
        cell.source = linked(cell.source, href, href.removesuffix(".ipynb").replace("/", "."))
