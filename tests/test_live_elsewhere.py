"""The live widget in a hidden tab, without a camera, at other addresses, and in the tutorial."""
import json
import shutil
import socket
import subprocess
import time
import urllib.request

import pytest

from live2diff_nb.live.bench import visit, window
from live2diff_nb.live.browser import Lab, NotebookPage, wait_for
from live_page import IMPORTS, Page, browser, difference, driver, film, lab, launch  # noqa: F401

pytestmark = pytest.mark.browser
# seconds: longer than the page's, `SILENCE` in live.js
WATCHDOG = 6.5


def test_hidden_tab(lab, film, tmp_path):
    "Really hidden: another tab is brought to the front, while no driver holds the page awake."
    def tabs(port, what, method="GET"):
        ask = urllib.request.Request(f"http://127.0.0.1:{port}/json/{what}", method=method)
        return json.load(urllib.request.urlopen(ask))
    with window(film, tmp_path) as port:
        def begin(page):
            desk = NotebookPage(page, lab, "hidden").open()
            desk.run(IMPORTS + """
said = []
def note(page, **numbers):
    said.append((numbers["hidden"], numbers["painted"], time.monotonic()))
    alive(page, **numbers)
    Path("said.new").write_text(json.dumps(said))
    Path("said.new").rename("said.json")""")
            desk.show("""live = LiveTranslator(negative)
alive = live.desk.handlers['alive']
live.desk.handlers['alive'] = note""")
            desk.started()
        visit(port, begin)
        own = next(tab["id"] for tab in tabs(port, "list") if "/lab/" in tab["url"])
        said = lambda: json.loads(file.read_text()) if (file := lab.folder / "said.json").exists() else []
        hidden = lambda: [(painted, at) for away, painted, at in said() if away]
        wait_for(lambda: said() and not said()[-1][0])
        tabs(port, "new?about:blank", "PUT")                                   # a new tab lies over it
        wait_for(lambda: hidden() and hidden()[-1][1] - hidden()[0][1] > WATCHDOG)
        urllib.request.urlopen(f"http://127.0.0.1:{port}/json/activate/{own}")
        wait_for(lambda: not said()[-1][0] and said()[-1][1] > hidden()[-1][0] + 5, 30, said)
        def end(page):
            desk = NotebookPage(page, lab, "hidden")
            return desk.look(), json.loads(desk.run("print(json.dumps([live.running, dict(live.troubles), said]))"))
        seen, (running, troubles, said) = visit(port, end)
    assert running and not troubles and not seen["trouble"]
    hidden = [painted for away, painted, _ in said if away]
    assert len(hidden) >= 4 and hidden[-1] - hidden[0] <= 2, f"a hidden tab takes no frames: {said}"
    assert not said[0][0] and not said[-1][0] and seen["painted"] > hidden[-1] + 5, f"back again it goes on: {said}"


# ---- no camera -----------------------------------------------------------------------------------------------------
def test_camera_denied(launch, lab):
    desk = Page(launch(allowed=False), lab, "troubles")
    desk.run(IMPORTS)
    desk.show("live = LiveTranslator(negative)")
    for _ in range(2):                                                         # the refusal is asked for anew each time
        desk.click(".main")
        wait_for(lambda: desk.stopped("denied", "address bar"), 60, desk.look)
        desk.page.evaluate("[...document.querySelectorAll('.l2d .trouble')].at(-1).textContent = ''")
    assert desk.run("print(dict(live.troubles))") == "{'NotAllowedError': 2}\n"
    desk.run("live.close()")
    assert not [said for said in desk.complaints if "NotAllowed" in said], "a refusal that nobody hears"
    desk.page.close()


def test_no_camera(launch, lab):
    desk = Page(launch(camera=False), lab, "troubles")
    desk.run(IMPORTS)
    desk.show("live = LiveTranslator(negative)")
    desk.click(".main")
    wait_for(lambda: desk.stopped("No camera was found"), 60, desk.look)
    assert desk.run("print(dict(live.troubles))") == "{'NotFoundError': 1}\n"
    desk.page.close()


def test_page_that_is_not_secure(browser, lab):
    desk = Page(browser, lab, "troubles", lab.address.replace("127.0.0.1", "lab.example"))
    desk.run(IMPORTS)
    desk.show("live = LiveTranslator(negative)")
    desk.click(".main")
    wait_for(lambda: "HTTPS" in desk.look()["trouble"] and "lab.example" in desk.look()["trouble"])
    # but a source of the kernel's works, over the channel
    desk.show("live = LiveTranslator(negative, source='demo')")
    assert "notebook channel" in desk.started()["status"]
    desk.page.close()


def own_address():
    "The address of this machine in its network; nothing is sent."
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        try: line.connect(("192.0.2.1", 9))
        except OSError: return "127.0.0.1"
        return line.getsockname()[0]


def test_a_server_elsewhere_over_https(launch, tmp_path):
    "The camera works where the page is secure, and frames take the notebook's channel."
    if not shutil.which("openssl"): pytest.skip("no openssl to make a certificate with")
    files, host = (tmp_path / "cert.pem", tmp_path / "key.pem"), own_address()
    certify = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=lab".split()
    subprocess.run([*certify, "-out", files[0], "-keyout", files[1]], check=True, capture_output=True)
    with Lab(tmp_path / "lab", host, files) as far:
        name = far.address if host != "127.0.0.1" else far.address.replace(host, "lab.example")
        desk = Page(launch("--ignore-certificate-errors"), far, "far", name)
        desk.run(IMPORTS)
        desk.show("live = LiveTranslator(negative)")
        assert "notebook channel" in desk.started(10)["status"]
        assert desk.page.evaluate("location.protocol + window.isSecureContext") == "https:true"
        desk.page.close()


# ---- the tutorial --------------------------------------------------------------------------------------------------
def test_live_notebook_moves(browser, lab):
    desk = Page(browser, lab, "live")
    desk.page.evaluate("void window.jupyterapp.commands.execute('notebook:run-all-cells')")
    wait_for(lambda: desk.look(), 180, lambda: desk.page.locator(".jp-RenderedText").all_inner_texts()[-3:])
    desk.click(".main", 0)
    inputs, results = set(), set()
    def collect():
        seen = desk.look(0)
        if seen["painted"]: inputs.add(tuple(seen["input"])), results.add(tuple(seen["output"]))
        return len(inputs) >= 8 and len(results) >= 8
    wait_for(collect, 90, lambda: desk.look(0))
    seen = desk.look(0)
    assert difference(seen["input"], seen["output"]) > 8, "the output looks like the input"
    box = desk.page.locator(".l2d").first.locator(".prompt")                   # settings can be changed while it runs
    box.fill("watercolour")
    box.press("Enter")
    desk.paints(5, n=0)
    desk.click(".main", 0)
    wait_for(lambda: desk.look(0)["button"] == "Start")
    still = desk.look(0)["output"]
    time.sleep(1)
    assert desk.look(0)["output"] == still
    desk.page.close()
