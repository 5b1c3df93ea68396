"""The figures in a real JupyterLab: the saved cells of the chapters in one notebook, opened, trusted and played."""
import pytest
from nbformat import v4, write
from test_exercises import QUIZ_OF
from test_figures import PLACES, STILL, at, picture, saved_data

from live2diff_nb.live.browser import KERNEL, wait_for
from live_page import Page, browser, driver, film, lab, launch  # noqa: F401 (fixtures)
from pages import NBS, notebook

pytestmark = pytest.mark.browser
KINDS = sorted({*PLACES.values(), "quiz"})
TRUST = "() => { for (const cell of jupyterapp.shell.currentWidget.content.widgets) cell.model.trusted = true }"
STATE = """() => { const {widgets, activeCellIndex, mode} = jupyterapp.shell.currentWidget.content;
    return [widgets.length, activeCellIndex, mode] }"""
OUTSIDE = """edge => [...document.querySelectorAll('.l2d-page')].filter(root => root.scrollWidth > root.clientWidth
    || root.getBoundingClientRect().right > edge || root.clientWidth < 200).map(root => root.dataset.kind)"""
ASKED = """import json
from live2diff_nb.figures.figure import Figure
data = json.load(open('noise.json'))
entries = [one | {"sigma": .123} for one in data["entries"]]
def answer(asked): return data | {"frame": asked["frame"], "entries": entries}
Figure("noise", data, "a figure", None).widget(answer)"""


def figures(place):
    "The cells of a page that show a figure."
    shows = lambda cell: any('class="l2d-page"' in "".join(output.get("data", {}).get("text/html", ""))
                             for output in cell.get("outputs", []))
    return [cell for cell in notebook(NBS / f"{place}.ipynb").cells if shows(cell)]


@pytest.fixture(scope="module")
def desk(browser, lab):  # noqa: F811
    places = sorted({*PLACES, *QUIZ_OF.values()})
    cells = [cell for place in places for cell in figures(place)]
    write(v4.new_notebook(cells=cells, metadata={"kernelspec": KERNEL}), lab.folder / "figures.ipynb")
    (lab.folder / "noise.json").write_text(saved_data("engine/lcm", "noise"))
    context, requested = browser.new_context(), []
    context.on("request", lambda request: requested.append(request.url))
    desk = Page(context, lab, "figures")
    desk.page.evaluate("jupyterapp.shell.collapseLeft()")                     # or it fills a narrow screen
    desk.elsewhere = lambda: [url for url in requested if not url.startswith((lab.address, "data:", "blob:"))]
    desk.count = len(cells)
    yield desk
    context.close()


def figure_of(desk, kind):
    figure = desk.page.locator(f'.l2d-page[data-kind="{kind}"]').first
    figure.scroll_into_view_if_needed()
    return figure


def test_a_picture_until_the_notebook_is_trusted(desk):
    pictures = desk.page.locator(".l2d-page img[alt]")
    wait_for(lambda: pictures.count() == desk.count, 30)
    assert all(len(picture.get_attribute("alt")) > 40 for picture in pictures.all())
    assert pictures.first.evaluate("image => image.naturalWidth") > 300
    assert desk.page.locator(".l2d-figure").count() == 0
    desk.page.evaluate(TRUST)
    wait_for(lambda: desk.page.locator(".l2d-page[data-drawn]").count() == desk.count, 30)
    drawn = {figure.get_attribute("data-drawn") for figure in desk.page.locator(".l2d-page").all()}
    assert drawn == set(KINDS), "a figure failed"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in STILL])
def test_plays(desk, kind):
    figure = figure_of(desk, kind)
    figure.get_by_label("to the start").click()
    first = picture(figure)
    figure.get_by_label("play", exact=True).click()
    wait_for(lambda: at(figure) >= 2, 10)
    figure.get_by_label("pause", exact=True).click()
    assert picture(figure) != first
    figure.focus()
    for key, expected in (("Home", 0), ("ArrowRight", 1)):
        desk.page.keyboard.press(key)
        assert at(figure) == expected


def test_keys_stay_in_the_figure(desk):
    "The notebook would make, cut and delete cells, and go to the next one."
    figure = figure_of(desk, "masks")
    figure.focus()
    before, drawn = desk.page.evaluate(STATE), picture(figure)
    for key in ("a", "b", "x", "d", "d", "m", "Enter", "ArrowDown"): desk.page.keyboard.press(key)
    assert desk.page.evaluate(STATE) == before and picture(figure) != drawn


def test_a_quiz_is_answered(desk):
    box = figure_of(desk, "quiz").locator(".question").first
    answer = box.get_by_label("answer 1")
    answer.fill("1000000")
    answer.press("Enter")
    assert box.locator(".say").inner_text().startswith("Not yet. ")


def test_the_kernel_answers(desk):
    number = desk.begin(ASKED)
    widget = desk.page.locator('.l2d-figure:not(.l2d-page)[data-drawn="noise"]')
    slider = widget.get_by_label("frame of the clip")
    wait_for(lambda: desk.page.evaluate("n => window.jobs[n] !== null", number) and slider.count() == 1)
    slider.focus()
    desk.page.keyboard.press("Home")
    wait_for(lambda: "0.12 of noise" in widget.locator(".say").inner_text(), 20)


def test_fit_in_light_and_dark(desk):
    inks = []
    for theme, width in (("JupyterLab Light", 1400), ("JupyterLab Dark", 420)):
        desk.page.set_viewport_size({"width": width, "height": 1000})
        desk.page.evaluate("theme => jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
        desk.page.wait_for_function("theme => document.body.dataset.jpThemeName === theme", arg=theme)
        wait_for(lambda: desk.page.evaluate(OUTSIDE, width) == [], 10, lambda: desk.page.evaluate(OUTSIDE, width))
        inks.append(figure_of(desk, "quiz").evaluate("root => getComputedStyle(root).color"))
    assert inks[0] != inks[1]
    assert desk.complaints == [] and desk.elsewhere() == []
