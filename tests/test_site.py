"""The site as a book: one road, a search without a network, an API that the prose links to."""
import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from test_browser import browser  # noqa: F401 (a fixture)

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "nbs"))
import _api  # noqa: E402
import _book  # noqa: E402
import _reference  # noqa: E402

@pytest.fixture(scope="module")
def page(browser):  # noqa: F811
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.complaints = []
    page.on("console", lambda message: message.type == "error" and page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    yield page
    page.close()


def links_of(site, address): return re.findall(r'href="([^"]+)"', (site / address).read_text(encoding="utf8"))


# ---- the road ------------------------------------------------------------------------------------------------------
def test_road_has_fourteen_chapters_and_about_four_hours():
    assert [page.number for page in _book.road()] == list(range(1, 15))
    assert 3.5 <= sum(page.minutes for page in _book.road()) / 60 <= 4.75


def test_start_page_and_readme_list_the_road():
    index = "\n".join(_book.book()["index.ipynb"].texts)
    assert _book.ROAD.search(index)[0].split("-->\n", 1)[1].startswith("\n" + _book.road_table()), "run `make readme`"
    readme = (ROOT / "README.md").read_text(encoding="utf8")
    assert [f"[{page.title}](nbs/{page.href})" in readme for page in _book.road()] == [True] * 14


@pytest.mark.parametrize("number", range(1, 14))
def test_next_line_and_footer_agree_on_the_road(site, number):
    page, following = _book.road()[number - 1:number + 1]
    line, = re.findall(r"^\*\*Next:\*\* .*\]\(([^)#]+)\)", page.texts[-1], re.MULTILINE)[:1]
    assert (ROOT / "nbs" / page.href).parent.joinpath(line).resolve() == ROOT / "nbs" / following.href
    html = (site / page.href.replace(".ipynb", ".html")).read_text(encoding="utf8")
    assert re.search(r'class="next" href="([^"]+)"', html)[1].endswith(following.href.replace(".ipynb", ".html"))


def test_a_side_room_leads_back_to_its_chapter_and_on_to_the_next_room():
    rooms = [page for page in _book.book().values() if not page.number and page.section]
    for page in rooms:
        back, following = _book.around(page)
        assert back.number or not any(chapter.section == page.section for chapter in _book.road()), page.href
        assert following is None or following in rooms and following.section == page.section


# ---- search --------------------------------------------------------------------------------------------------------
@pytest.mark.browser
@pytest.mark.parametrize("asked, place", [
    ("ring slot", "engine/kvcache.html#"), ("temporal_mask", "engine/masks.html#"), ("LoRA", "weights/lora.html#"),
    ("StreamDenoiser", "api/engine.html#")])
def test_search_finds(page, site, asked, place):
    page.goto((site / "tutorials/translate.html").as_uri())
    page.keyboard.press("/")
    page.keyboard.type(asked)
    page.locator("#found mark").first.wait_for()
    found = page.eval_on_selector_all("#found a", "links => links.map(link => link.href)")
    assert any(place in address for address in found), found
    page.keyboard.press("ArrowDown")
    assert page.locator("#found li[aria-selected=true]").count() == 1
    page.keyboard.press("Enter")
    page.wait_for_url(found[1])
    assert page.complaints == []


@pytest.mark.browser
def test_search_closes_and_says_when_it_finds_nothing(page, site):
    page.goto((site / "index.html").as_uri())
    page.keyboard.press("/")
    page.keyboard.type("qqqqq")
    page.get_by_text("Nothing found").wait_for()
    page.keyboard.press("Escape")
    assert page.locator("#found").is_hidden() and page.evaluate("document.activeElement === document.body")


def test_search_leads_to_headings_that_exist(site):
    text = (site / "assets/index.js").read_text(encoding="utf8")
    index = json.loads(text.removeprefix("window.searchIndex = ").rstrip(";\n"))
    ids = {path.relative_to(site).as_posix(): set(re.findall(r' id="([^"]+)"', path.read_text(encoding="utf8")))
           for path in site.rglob("*.html")}
    assert set(ids) == {address.partition("#")[0] for address, *_ in index}
    for address, *_ in index:
        file, _, place = address.partition("#")
        assert not place or place in ids[file], address


# ---- API -----------------------------------------------------------------------------------------------------------
def test_every_part_has_a_page_in_the_sidebar():
    listed = [href for _, href in _api.sidebar_pages() if href.startswith("api/")]
    assert listed == [f"api/{part}.qmd" for part in _reference.parts()]


@pytest.mark.parametrize("part", _reference.parts())
def test_api_page_has_every_name_and_links_to_the_page_that_explains_it(site, part):
    html = (site / f"api/{part}.html").read_text(encoding="utf8")
    for entry in (entry for entry in _api.entries() if entry.part == part):
        assert f'id="{entry.place}"' in html
        if any(parameter.docment for parameter in entry.parameters):
            for parameter in entry.parameters: assert f"<code>{parameter.name}</code>" in html
    explained = re.findall(r'Explained in <a href="\.\./([^"#]+)#([^"]+)"', html)
    assert explained
    for page, place in explained: assert f'id="{place}"' in (site / page).read_text(encoding="utf8"), (page, place)


def test_prose_links_to_the_api(site):
    assert "api/engine.html#engine.kvcache.ring_state" in links_of(site, "index.html")
    text = "`ring_state`, `numbers` and ``x``; [`ring_state`](x.ipynb)\n```\n`ring_state`\n```\n`ring_state()`"
    linked = _api.linked(text, "engine/unet.ipynb", "engine.unet")
    assert linked == text.replace("`ring_state`,", "[`ring_state`](../api/engine.qmd#engine.kvcache.ring_state),")


def test_what_is_published_is_what_is_tested():
    "The workflow uploads what `make docs` builds, with the builder that the tests open in a browser."
    steps = yaml.safe_load((ROOT / ".github/workflows/docs.yml").read_text(encoding="utf8"))["jobs"]["build"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == ["make docs"]
    assert next(step["with"]["path"] for step in steps if "upload" in step.get("uses", "")) == "_docs"
    rule = (ROOT / "Makefile").read_text(encoding="utf8").split("\ndocs:")[1].split("\n\n")[0]
    assert "nbs/_site.py build" in rule and "quarto" not in rule


def test_quarto_gets_the_same_pages(tmp_path):
    _reference.write(tmp_path / "api")
    assert sorted(path.stem for path in (tmp_path / "api").glob("*.qmd")) == sorted(_reference.parts())
    assert (tmp_path / "api/engine.qmd").read_text(encoding="utf8").endswith(_reference.page("engine"))
