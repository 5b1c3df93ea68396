"""The site without Quarto: `python nbs/_site.py build` renders the notebooks and the API pages into `_docs/`, with the
navigation of `_quarto.yml` and a search over all pages.

Formulas become MathML and nothing is fetched, so the pages need no network and no server. `python nbs/_site.py readme`
brings the lists of index.ipynb and paper.ipynb up to date and writes README.md; `python nbs/_site.py api` writes the
API pages for Quarto.
"""
import argparse
import json
import os
import re
import shutil
import sys
from functools import lru_cache
from html import escape, unescape
from pathlib import Path

from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.exporters.templateexporter import TemplateExporter
from nbconvert.filters import DataTypeFilter, Highlight2HTML
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from pygments.formatters import HtmlFormatter

import _paper
import _reference
from _api import CONFIG, NBS, ROOT, TOP, sidebar_pages
from _book import Page, around, book, cell_of, notebook, place_of, write_road

PICTURES = {".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg", ".mp4"}
ASSETS = ["vendor/minisearch.min.js", "vendor/minisearch.LICENSE.txt", "_search.js"]
FIGURES = re.compile(r'<(script|style)\b[^>]*\bdata-l2d=.*?</\1>', re.DOTALL)
TEXT_LINK = re.compile(r'(\]\(|srcset=")(?!\w+:|#|/)')

# A code cell may be folded (`#| code-fold: true`) or left out (`#| echo: false`).
CELLS = """{% extends 'basic/index.html.j2' %}
{% block input_group %}{% if not cell.metadata.echo_off %}
{% if cell.metadata.fold %}<details class="fold"><summary>{{ cell.metadata.fold | escape_html }}</summary>{% endif %}
{{ super() }}{% if cell.metadata.fold %}</details>{% endif %}{% endif %}{% endblock %}
{% block codecell %}<div class="code{{ ' exported' if cell.metadata.exported }}">{{ super() }}</div>{% endblock %}"""


class Renderer(IPythonRenderer):
    "Markdown to HTML with every formula as MathML, which browsers draw themselves, and with pandoc's ids on headings."
    def heading(self, text, level, **attributes):
        given = re.search(r"\s*\{#([\w.-]+)\}$", text)
        text, place = (text[:given.start()], given[1]) if given else (text, place_of(unescape(text)))
        mark = f'<a class="anchor-link" aria-label="Link to this section" href="#{place}">#</a>'
        return f'<h{level} id="{place}">{text}{mark}</h{level}>\n'

    def block_math(self, body): return f'<div class="formula">{convert(body.strip(), display="block")}</div>'
    def inline_math(self, body): return convert(body)
    def latex_environment(self, name, body): return self.block_math(rf"\begin{{{name}}}{body}\end{{{name}}}")
    def multiline_math(self, text): return self.block_math(text.strip("$"))


class Exporter(HTMLExporter):
    "nbconvert's HTML without `HTMLExporter`'s second parsing: it is for other templates and takes a third of the time."
    def markdown2html(self, source): return MarkdownWithMath(renderer=Renderer(escape=False)).render(source)

    def html(self, nb):
        self.register_filter("highlight_code", Highlight2HTML(pygments_lexer="ipython3", parent=self))
        self.register_filter("filter_data_type", DataTypeFilter())
        self.register_filter("clean_html", lambda html: html)   # our own notebooks: nothing to sanitize
        self.register_filter("strip_files_prefix", lambda text: text)   # `files` is a folder of ours
        return TemplateExporter.from_notebook_node(self, nb, self._init_resources({}))[0]


@lru_cache
def exporter() -> Exporter: return Exporter(raw_template=CELLS, exclude_input_prompt=True, exclude_output_prompt=True)


def relative(here, href):
    "The link from one page to another."
    return "../" * here.count("/") + re.sub(r"\.(ipynb|qmd)", ".html", href)


def sidebar(here):
    "Links to every page, a fold for each part, the open page marked. On the start page all parts are open."
    html, last = [], ""
    titles = {href: page.title for href, page in book().items()}
    titles |= {f"api/{part}.qmd": _reference.title(part) for part in _reference.parts()}
    for section, href in sidebar_pages():
        if href not in titles: continue
        if section != last:
            opened = " open" if here == "index.ipynb" or (section, here) in sidebar_pages() else ""
            html.append(("</details>" if last else "") + f"<details{opened}><summary>{escape(section)}</summary>")
        mark = ' class="here" aria-current="page"' if href == here else ""
        html.append(f'<a href="{relative(here, href)}"{mark}>{escape(titles[href])}</a>')
        last = section
    return "\n".join(html) + "</details>"


def contents(body):
    "Links to the headings of a page."
    heads = re.findall(r'<h([23]) id="([^"]+)">(.*?)<a class="anchor-link"', body)
    return "\n".join(f'<a class="h{level}" href="#{place}">{re.sub("<[^>]+>", "", text)}</a>'
                     for level, place, text in heads)


def html_page(href, title, description, nb, previous=None, following=None):
    "One whole HTML page; links to notebooks become links to pages."
    body = re.sub(r'(<a [^>]*href="(?!\w+:)[^"#]*)\.(?:ipynb|qmd)', r"\1.html", exporter().html(nb))
    body = re.sub(r"<img (?![^>]*\balt=)", '<img alt="What the code above draws" ', once(body))
    def step(page, name, text):
        if not page: return "<span></span>"
        return f'<a class="{name}" href="{relative(href, page.href)}">{text.format(escape(page.title))}</a>'

    site = CONFIG["website"]
    return (NBS / "_page.html").read_text(encoding="utf8").format_map(dict(
        title=escape(title), site=escape(site["title"]), description=escape(description), repo=site["repo-url"],
        source=source_of(href), root="../" * href.count("/"), sidebar=sidebar(href), toc=contents(body), body=body,
        previous=step(previous, "previous", "&larr; {}"), next=step(following, "next", "{} &rarr;")))


def once(body):
    "A page in which the drawing code that each figure brings along (live2diff_nb.figures) stands once."
    seen = set()
    return FIGURES.sub(lambda code: seen.add(code[0]) or code[0] if code[0] not in seen else "", body)


def source_of(href):
    "Where a page's source can be read: its notebook, or the modules of an API page."
    place = f"nbs/{href}" if href.endswith(".ipynb") else f"live2diff_nb/{Path(href).stem}".removesuffix(TOP)
    return f'{CONFIG["website"]["repo-url"]}/blob/main/{place}'


def style():
    "The site's styles and the colours of the code, light and dark."
    light = HtmlFormatter(style="vs").get_style_defs(".highlight")
    dark = HtmlFormatter(style="github-dark").get_style_defs('[data-theme="dark"] .highlight')
    return "\n".join([light, dark, (NBS / "_page.css").read_text(encoding="utf8")])


# ---- search ----------------------------------------------------------------------------------------------------------
def plain(text):
    "Markdown without its marks: links and tables as their text."
    text = re.sub(r"</?\w[^>]*>|<!--.*?-->|^```\w*$", " ", text, flags=re.MULTILINE)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return " ".join(unescape(re.sub(r"[`*|]+|^#+\s|^>|-{3,}|\{#.*?\}", " ", text, flags=re.MULTILINE)).split())


def sections(href, title, description, nb): # -> [[address, title of the page, heading, text], ...]
    "What the search finds on a page: its text and code by heading."
    found = [[relative("", href), title, "", description]]
    for cell in nb.cells:
        text = cell.cell_type == "markdown"
        parts = re.split(r"^#{2,4} (.+)$", cell.source, flags=re.MULTILINE) if text else [cell.source]
        found[-1][3] += " " + plain(parts[0])
        for head, text in zip(parts[1::2], parts[2::2]):
            given = re.search(r"\{#([\w.-]+)\}$", head)
            place = given[1] if given else place_of(head)
            found.append([f"{relative('', href)}#{place}", title, plain(head), plain(text)])
    return found


# ---- writing ---------------------------------------------------------------------------------------------------------
def build(out):
    "Render every page into the folder `out`."
    shutil.rmtree(out, ignore_errors=True)
    pages = {href: (page.title, page.description, page.nb, *around(page)) for href, page in book().items()}
    for part in _reference.parts():
        nb = notebook(cell_of("markdown", _reference.page(part)))
        pages[f"api/{part}.qmd"] = _reference.title(part), _reference.DESCRIPTION, nb
    for href, page in pages.items(): write(out / relative("", href), html_page(href, *page))
    index = [section for href, page in pages.items() for section in sections(href, *page[:3])]
    write(out / "assets/index.js", f"window.searchIndex = {json.dumps(index, ensure_ascii=False)};\n")
    write(out / "assets/page.css", style())
    for name in ASSETS: write(out / "assets" / Path(name).name, (NBS / name).read_text(encoding="utf8"))
    for picture in NBS.rglob("*"):
        if picture.suffix in PICTURES and ".ipynb_checkpoints" not in picture.parts:
            (out / picture.relative_to(NBS)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(picture, out / picture.relative_to(NBS))
    print(f"{len(pages)} pages in {out}")


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf8")


def readme():
    "index.ipynb as Markdown for README.md: text, code and printed results."
    index = Page("index.ipynb", linked=False)
    parts = [f"# {index.title}", f"> {index.description}"]
    for cell in index.nb.cells:
        if cell.cell_type == "markdown": parts.append(TEXT_LINK.sub(r"\1nbs/", cell.source))
        else:
            if not cell.metadata.echo_off: parts.append(f"```python\n{cell.source}\n```")
            parts += [readme_output(out) for out in cell.outputs]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def readme_output(output):
    "A printed or Markdown result; pictures belong into nbs/images."
    if "text" in output: return "".join(f"    {line}\n" for line in output.text.splitlines())
    if "text/markdown" in output.get("data", {}): return output.data["text/markdown"]
    kinds = list(output.get("data", {}))
    raise ValueError(f"index.ipynb may print text or Markdown only, not {kinds}: put pictures into nbs/images")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["build", "readme", "check-readme", "api"])
    parser.add_argument("--out", type=Path, default=ROOT / "_docs", help="folder for the site")
    args = parser.parse_args()
    args.out = args.out.resolve()
    os.chdir(ROOT) # nbdev looks for settings.ini from here
    if args.what == "build": build(args.out)
    elif args.what == "api": _reference.write(NBS / "api")
    elif args.what == "readme":
        write_road()
        _paper.write()
        write(ROOT / "README.md", readme())
    elif (ROOT / "README.md").read_text(encoding="utf8") != readme():
        sys.exit("README.md differs from nbs/index.ipynb: run `make readme`")


if __name__ == "__main__":
    main()
