"""The moving figures: what the page computes is what Python computes, and each one plays on the built site."""
import base64
import json
import random
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_browser import browser  # noqa: F401 (a fixture)

from live2diff_nb.engine.masks import MODES, receptive_field, temporal_mask
from live2diff_nb.figures.engine import call_times
from live2diff_nb.figures.figure import PLOTS, asset, code_of, joined, mask_figure
from live2diff_nb.figures.pictures import combinations
from pages import NBS, PATHS, ROOT, notebook

sys.path.insert(0, str(NBS))
import _site  # noqa: E402

PLACES = {"engine/masks": "masks", "engine/kvcache": "ring", "engine/stream": "pipeline", "live/wire": "ages",
          "live/view": "attention", "depth/estimator": "depth", "engine/lcm": "noise", "judge/variants": "parts",
          "training/lora": "training", "engine/unet": "network", "paper": "network"}
STILL = {"masks", "network", "quiz"}                                       # kinds without a player
PLAYED = {place: kind for place, kind in PLACES.items() if kind not in STILL}


def saved():
    "`(page, kind, html)` of every figure in a saved page."
    for path in PATHS:
        for output in (out for cell in notebook(path).cells for out in cell.get("outputs", [])):
            html = "".join(output.get("data", {}).get("text/html", ""))
            for kind in re.findall(r'class="l2d-page" data-kind="(\w+)"', html): yield path, kind, html


def saved_data(place, kind):
    "The JSON of a saved figure."
    html = next(html for path, found, html in saved() if path == NBS / f"{place}.ipynb" and found == kind)
    return re.search(r'<script type="application/json">(.*?)</script>', html, re.S)[1]


def test_pages_carry_the_present_code_and_a_picture_with_a_text():
    for path, kind, html in saved():
        assert code_of(kind) in html, f"{path.relative_to(NBS)}: run the page again, its figure has old code"
        said, png = re.search(r'<img alt="([^"]+)" src="data:image/png;base64,(\w[^"]+)"', html).groups()
        assert len(said) > 40 and len(png) < 80_000
        json.loads(re.search(r'<script type="application/json">(.*?)</script>', html, re.S)[1])


def test_every_kind_stands_in_its_chapter():
    found = {(str(path.relative_to(NBS).with_suffix("")), kind) for path, kind, _ in saved()}
    assert set(PLACES.items()) <= found


def test_the_plot_library_has_its_licence():
    assert "MIT" in asset("uPlot.LICENSE.txt") and "Leon Sorokin" in asset("uPlot.LICENSE.txt")


def test_a_widget_asks_the_kernel():
    widget = mask_figure().widget(lambda asked: {"frames": asked["frames"]})
    widget.asked = {"frames": 12}                                                      # what the page would send
    assert widget.data == {"frames": 12} and widget.kind == "masks"
    assert widget._esm.endswith("export default {render};\n") and "uPlot=" in widget._esm
    widget.close()


def test_the_readme_moves_on_its_first_screen():
    first = (ROOT / "README.md").read_text(encoding="utf8").splitlines()[:10]
    path, = re.findall(r"!\[.*\]\((nbs/images/\S+)\)", "\n".join(first))
    still, = re.findall(r'<source media="\(prefers-reduced-motion: reduce\)" srcset="(\S+)">', "\n".join(first))
    assert Image.open(ROOT / path).n_frames > 20 and (ROOT / path).stat().st_size < 1_500_000
    assert Image.open(ROOT / still).n_frames == 1 and Image.open(ROOT / still).size == Image.open(ROOT / path).size
    for each in (path, still):
        assert f'NBS / "{Path(each).relative_to("nbs")}"' in (NBS / "_film.py").read_text(encoding="utf8")


# ---- what a page computes itself ------------------------------------------------------------------------------------
def module(page, name, functions):
    "A page that has these functions of a drawing module as globals."
    page.goto("about:blank")
    page.add_script_tag(type="module", content=joined(name) + f"\nObject.assign(window, {{{functions}}});")


@pytest.fixture
def page(browser):  # noqa: F811
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    yield page
    page.close()


@pytest.mark.browser
def test_masks_of_the_page_are_those_of_the_engine(page):
    module(page, "masks.js", "temporalMask, reach")
    chance, asked, expected = random.Random(0), [], []
    for _ in range(100):
        mode, frames, layers = chance.choice(MODES), chance.randint(1, 16), chance.randint(0, 6)
        warmup, window = chance.randint(0, 18), chance.randint(1, 18)
        asked.append([frames, warmup, mode, window, layers])
        mask = temporal_mask(frames, warmup, mode, window)
        expected.append([mask.tolist(), [receptive_field(mask, n).tolist() for n in range(layers + 1)]])
    found = page.evaluate("all => all.map(([f, w, m, l, n]) => "
                          "{ const mask = temporalMask(f, w, m, l); return [mask, reach(mask, n)] })", asked)
    assert found == expected


@pytest.mark.browser
def test_times_of_the_page_are_those_of_python(page):
    module(page, "pipeline.js", "callTimes")
    chance = random.Random(0)
    for _ in range(100):
        rows, calls, extra = chance.randint(1, 5), chance.randint(1, 12), chance.random()
        log = [[s - k if 0 <= s - k else None for k in range(rows)] for s in range(calls)]
        alone = [[n if k == at else None for k in range(rows)] for n in range(3) for at in range(rows)]
        if chance.random() < .5: log = alone
        ends, frames = call_times(log, extra)
        found = page.evaluate("([log, extra]) => callTimes(log, extra)", [log, extra])
        assert found["ends"] == pytest.approx(ends)
        for frame, (start, end) in frames.items():
            assert found["frames"][str(frame)] == [pytest.approx(start), end and pytest.approx(end)]


# ---- played on the site ---------------------------------------------------------------------------------------------
def opened(browser, site, place, kind, width=1400, **context):  # noqa: F811
    "`(page, figure, complaints, requests)` of a page of the site."
    page = browser.new_context(viewport={"width": width, "height": 1000}, **context).new_page()
    complaints, requested = [], []
    page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requested.append(request.url))
    page.goto((site / f"{place}.html").as_uri())
    figure = page.locator(f'.l2d-page[data-kind="{kind}"]').first
    return page, figure, complaints, requested


def picture(figure):
    "All that is drawn: elements, and pixels of a canvas."
    return figure.evaluate("root => [...root.querySelectorAll('svg')].map(svg => svg.outerHTML).join('')"
                           " + [...root.querySelectorAll('canvas')].map(canvas => canvas.toDataURL()).join('')")


def at(figure): return int(figure.get_attribute("data-at"))


@pytest.mark.browser
@pytest.mark.parametrize("place, kind", PLAYED.items())
def test_plays_steps_and_scrubs(browser, site, place, kind):  # noqa: F811
    page, figure, complaints, requested = opened(browser, site, place, kind)
    assert figure.get_attribute("data-drawn") == kind and figure.locator("img").count() == 0
    figure.get_by_label("to the start").click()
    first = picture(figure)
    figure.get_by_label("play", exact=True).click()
    page.wait_for_function("root => root.dataset.at >= 2", arg=figure.element_handle(), timeout=5000)
    figure.get_by_label("pause", exact=True).click()
    stopped = at(figure)
    assert picture(figure) != first
    page.wait_for_timeout(300)
    assert at(figure) == stopped
    figure.focus()
    for key, expected in (("ArrowRight", stopped + 1), ("ArrowLeft", stopped), ("Home", 0), ("End", None)):
        page.keyboard.press(key)
        assert expected is None or at(figure) == expected
    assert at(figure) > stopped and page.evaluate("scrollY") == page.evaluate("scrollY")
    page.keyboard.press("Home")
    page.keyboard.press(" ")
    assert figure.get_attribute("data-playing") is not None
    page.keyboard.press(" ")
    assert figure.get_attribute("data-playing") is None
    figure.locator(".player input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    assert at(figure) >= 1 and figure.locator(".say").inner_text()
    assert complaints == [] and all(url.startswith(("file:", "data:", "blob:")) for url in requested)
    page.context.close()


@pytest.mark.browser
def test_masks_answer(browser, site):  # noqa: F811
    page, figure, complaints, _ = opened(browser, site, "engine/masks", "masks")
    said = lambda: figure.locator(".say").inner_text()
    before, drawn = said(), picture(figure)
    assert "into the future" in before
    figure.get_by_label("mask", exact=True).select_option("live2diff")
    assert "waits for nothing" in said() and picture(figure) != drawn
    figure.get_by_label("layers", exact=True).focus()
    page.keyboard.press("End")
    assert "6 layers" in said()
    figure.focus()
    page.keyboard.press("ArrowDown")
    assert "Frame 9" in said()
    box = figure.locator("svg.grid").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] * .12)
    assert "Frame 1 " in said() or "Frame 0 " in said()
    assert complaints == []
    page.context.close()


@pytest.mark.browser
def test_attention_at_another_place(browser, site):  # noqa: F811
    page, figure, complaints, _ = opened(browser, site, "live/view", "attention")
    before, drawn = figure.locator(".say").inner_text(), picture(figure)
    figure.locator('[data-place="9"]').click()
    assert "Place 9." in figure.locator(".say").inner_text() and picture(figure) != drawn
    figure.focus()
    page.keyboard.press("ArrowDown")
    assert "Place 17." in figure.locator(".say").inner_text() != before
    data = json.loads(saved_data("live/view", "attention"))
    for step in data["steps"]:                             # a byte a weight: each head's weights are still one in all
        weights = np.frombuffer(base64.b64decode(step["weights"]), np.uint8).reshape(-1, data["window"]).sum(1) / 255
        assert abs(weights - 1).max() < data["window"] / 2 / 255
    assert complaints == []
    page.context.close()


@pytest.mark.browser
def test_noise_says_where_training_ended(browser, site):  # noqa: F811
    page, figure, complaints, _ = opened(browser, site, "engine/lcm", "noise")
    data, said = json.loads(saved_data("engine/lcm", "noise")), lambda: figure.locator(".say").inner_text()
    figure.focus()
    page.keyboard.press("Home")
    assert data["entries"][0]["t"] < data["most"] < data["entries"][-1]["t"] and "was trained" not in said()
    page.keyboard.press("End")
    second = list(data["entries"][-1]["made"])[1]
    assert f"was trained on entries up to t = {data['most']}" in said() and "beyond its training" in figure.inner_text()
    before = picture(figure)
    figure.get_by_label("style").select_option(second)
    assert picture(figure) != before and f"{data['entries'][-1]['kept'][second]:.2f}" in said()
    assert figure.get_by_label("frame of the clip").count() == 0 and complaints == []    # a kernel's: none here
    page.context.close()


@pytest.mark.browser
def test_parts_are_switched_by_keyboard(browser, site):  # noqa: F811
    page, figure, complaints, _ = opened(browser, site, "judge/variants", "parts")
    data, said = json.loads(saved_data("judge/variants", "parts")), lambda: figure.locator(".say").inner_text()
    assert set(data["runs"]) == set(combinations()) and "All parts on" in said()
    for part, key in (("fixed noise", "1110"), ("memory of earlier frames", "0010"), ("depth", "0000")):
        before = picture(figure)
        figure.get_by_label(part).focus()
        page.keyboard.press(" ")
        times = data["runs"][key]["warp"] / data["runs"]["1111"]["warp"]
        assert figure.get_attribute("data-shows").split()[0] == key and picture(figure) != before
        assert said().startswith("Without ") and f"warp error {times:.2f} times" in said()
        assert figure.get_by_label("warmup").is_disabled() == (key[0] == "0")
    assert data["runs"]["1110"]["warp"] > 1.2 * data["runs"]["1111"]["warp"] and complaints == []
    page.context.close()


@pytest.mark.browser
def test_training_shows_each_saved_step(browser, site):  # noqa: F811
    page, figure, complaints, _ = opened(browser, site, "training/lora", "training")
    data, said = json.loads(saved_data("training/lora", "training")), lambda: figure.locator(".say").inner_text()
    assert data["steps"][-1] <= len(data["losses"]) and all(len(one["made"]) == len(data["steps"])
                                                            for one in data["examples"])
    for step in reversed(data["steps"]):
        assert said().startswith(f"Step {step}:") and f"after step {step}" in figure.inner_text()
        figure.get_by_label("one step back").click()
    assert "as it came" in said() and complaints == []
    page.context.close()


@pytest.mark.browser
def test_a_kernel_is_asked_for_another_frame(page):
    page.goto("about:blank")
    page.add_script_tag(content=asset("uPlot.iife.min.js"))
    page.add_style_tag(content=asset("uPlot.min.css"))
    page.add_script_tag(type="module", content=joined() + "\nwindow.drawn = draw;")
    page.evaluate("""data => { const root = document.createElement("div"); document.body.append(root);
        const next = drawn(root, "noise", data, "a figure", asked => {
            window.asked = asked;
            next({...data, entries: data.entries.map(one => ({...one, sigma: .123}))}); }) }""",
                  json.loads(saved_data("engine/lcm", "noise")))
    page.get_by_label("frame of the clip").focus()
    page.keyboard.press("Home")
    assert page.evaluate("asked") == {"frame": 0} and "0.12 of noise" in page.locator(".say").inner_text()


@pytest.mark.browser
def test_each_box_of_the_network_leads_to_a_page(browser, site):  # noqa: F811
    page, figure, complaints, _ = opened(browser, site, "paper", "network", 420)
    figure.locator("a[href*=levels] > rect").first.click()
    page.wait_for_url("**/engine/levels.html")
    assert complaints == []
    page.context.close()


@pytest.mark.browser
def test_one_frame_lights_up_in_ring_and_mask(browser, site):  # noqa: F811
    page, figure, complaints, _ = opened(browser, site, "engine/kvcache", "ring")
    assert figure.locator(".lit").count() == 0
    figure.locator('circle.slot[data-slot="9"]').first.hover()
    clip = figure.locator('circle.slot[data-slot="9"]').first.get_attribute("data-clip")
    assert figure.locator(".lit").count() == 1 and f"Frame {int(clip) - 8}:" in figure.locator(".say").inner_text()
    figure.get_by_label("denoising steps T").select_option("4")
    figure.get_by_label("bookkeeping of").select_option(" official")
    figure.get_by_label("to the start").click()
    for _ in range(5): figure.get_by_label("one step on").click()
    assert "no frame wrote" in figure.locator(".say").inner_text() and "0!" in figure.inner_text()
    assert complaints == []
    page.context.close()


@pytest.mark.browser
@pytest.mark.parametrize("place, kind", PLACES.items())
def test_fits_in_light_and_dark_and_stands_still_when_asked(browser, site, place, kind):  # noqa: F811
    inks = []
    for width, theme in ((1400, "light"), (420, "dark")):
        asked = dict(color_scheme=theme, reduced_motion="reduce")
        page, figure, complaints, _ = opened(browser, site, place, kind, width, **asked)
        size = figure.evaluate("root => [root.scrollWidth - root.clientWidth, root.getBoundingClientRect().right]")
        assert size[0] <= 0 and size[1] <= width
        inks.append(figure.evaluate("root => [getComputedStyle(root).color, getComputedStyle(root).backgroundColor]"))
        moving = figure.evaluate("root => [...root.querySelectorAll('*')].filter(one => "
                                 "parseFloat(getComputedStyle(one).transitionDuration) > 0).length")
        before = picture(figure)
        page.wait_for_timeout(200)
        assert moving == 0 and complaints == []
        if kind not in PLOTS: assert picture(figure) == before
        page.context.close()
    assert inks[0][0] != inks[1][0] and inks[0][1] != inks[1][1]


@pytest.mark.browser
@pytest.mark.parametrize("asked, name", [("reduce", "film_still.webp"), ("no-preference", "film.webp")])
def test_the_start_page_moves_unless_asked_not_to(browser, site, asked, name):  # noqa: F811
    page = browser.new_context(reduced_motion=asked).new_page()
    page.goto((site / "index.html").as_uri())
    shown = page.locator("picture img").evaluate("image => image.decode().then(() => image.currentSrc)")
    assert shown.endswith(f"/images/{name}")
    page.context.close()


@pytest.mark.browser
def test_a_picture_stands_in_where_no_script_runs(browser, site):  # noqa: F811
    for place, kind in PLACES.items():
        page, figure, _, _ = opened(browser, site, place, kind, java_script_enabled=False)
        image = figure.locator("img")
        assert image.is_visible() and image.bounding_box()["width"] > 300 and len(image.get_attribute("alt")) > 40
        page.context.close()


def test_the_code_stands_once_on_a_page_of_the_site(site):
    code = code_of("ages")
    assert _site.once(f"a{code}b{code}c{code_of('ring')}") == f"a{code}b\n\nc"
    for place in PLACES: assert (site / f"{place}.html").read_text(encoding="utf8").count("function player(") == 1
