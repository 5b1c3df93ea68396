"""How fast the live widget is in a real browser, and whether it stays so. Not a test: run it yourself.

    python tests/bench_live.py trivial               a function in the model's place, 30 s
    python tests/bench_live.py tiny                  the embedded model
    python tests/bench_live.py slow --seconds 300    200 ms a frame, for five minutes: the soak
Add --channel for the notebook's channel instead of the socket on this machine.
"""
import argparse
import json
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

from test_live_browser import FLAGS, IMPORTS, READY, Desk, answers, demo_clip, film, lab, wait_for

MODELS = {"trivial": "model = negative", "slow": "def model(frame): time.sleep(0.2); return 255 - frame",
          "tiny": "from live2diff_nb import Live2Diff\nmodel = Live2Diff.from_pretrained('tiny')"}
SAMPLES = """
import psutil
samples = []
def sample():
    while live.running:
        samples.append(dict(live.stats(), memory=psutil.Process().memory_info().rss / 1e6, time=time.monotonic()))
        time.sleep(5)
threading.Thread(target=sample, daemon=True).start()"""


def measure(kind, seconds, channel, adaptive):
    "Numbers of one run; Playwright is away while it lasts, because it copies every websocket message."
    from playwright.sync_api import sync_playwright
    folders = SimpleNamespace(mktemp=lambda name: Path(tempfile.mkdtemp()))
    server = lab.__wrapped__(None, folders)
    place = next(server)
    with socket.socket() as free: free.bind(("127.0.0.1", 0)); port = free.getsockname()[1]
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    window = subprocess.Popen([chromium, "--headless=new", *FLAGS, f"--use-file-for-fake-video-capture={film.__wrapped__(folders)}", "--use-fake-ui-for-media-stream",
                               f"--remote-debugging-port={port}", f"--user-data-dir={tempfile.mkdtemp()}", "--window-size=1300,1250", "about:blank"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/json/version"), 60)
        with sync_playwright() as driver:
            browser = driver.chromium.connect_over_cdp(f"http://127.0.0.1:{port}")
            desk = Desk(browser.contexts[0], place, "bench")
            desk.run(IMPORTS + "\n" + MODELS[kind])
            desk.show(f"live = LiveTranslator(model, socket={not channel}, adaptive={adaptive})")
            desk.started(20)
            desk.run(SAMPLES)
            begun = desk.page.evaluate("[performance.now(), +document.querySelector('.l2d canvas[data-painted]').dataset.painted]")
            desk.page.evaluate("""window.complaints = []; window.addEventListener('error', e => window.complaints.push('error ' + e.message + ' ' + e.filename + ' ' + (e.target?.tagName ?? '') + ' ' + (e.target?.src ?? ''))); window.addEventListener('unhandledrejection', e => window.complaints.push('rejected ' + String(e.reason)));
                console.error = (...a) => window.complaints.push('console ' + a.map(x => x?.stack || x?.message || String(x)).join(' '))""")
        time.sleep(seconds)
        with sync_playwright() as driver:
            browser = driver.chromium.connect_over_cdp(f"http://127.0.0.1:{port}")
            desk = Desk.__new__(Desk)
            desk.page = next(page for page in browser.contexts[0].pages if "/lab" in page.url)
            ended = desk.page.evaluate("[performance.now(), +document.querySelector('.l2d canvas[data-painted]').dataset.painted]")
            seen = desk.look()
            samples = json.loads(desk.run("print(json.dumps(samples))"))[1:]
            complaints = desk.page.evaluate("window.complaints")
    finally:
        window.terminate(); window.wait(20)
        next(server, None)
    third = max(1, len(samples) // 3)
    mean = lambda part, name: round(sum(s[name] for s in part) / len(part))
    return {"frames/s painted": round((ended[1] - begun[1]) * 1000 / (ended[0] - begun[0]), 1), "status": seen["status"],
            "p50 ms, first and last third": [mean(samples[:third], "p50"), mean(samples[-third:], "p50")],
            "p95 ms, first and last third": [mean(samples[:third], "p95"), mean(samples[-third:], "p95")],
            "kernel MB, first and last third": [mean(samples[:third], "memory"), mean(samples[-third:], "memory")], "console errors": complaints}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--channel", action="store_true")
    parser.add_argument("--adaptive", action="store_true", help="let the quality follow the machine (otherwise pinned)")
    args = parser.parse_args()
    for name, value in measure(args.model, args.seconds, args.channel, args.adaptive).items(): print(f"{name:34s}{value}")
