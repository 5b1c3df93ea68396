"""`bench gpu` rehearsed without a GPU: every line of it runs, on toys, and what goes wrong keeps the rest."""
import json
import subprocess
import sys

from live2diff_nb import gpu_bench
from live2diff_nb.bench import main


def test_lines_run_on_toys():
    "Two lines from frame to picture and a step of four rows, in this process; the pages run the other kinds."
    for case in gpu_bench.CASES:
        worker, overlap = (case.settings.get(name) for name in ("as_worker", "overlap"))
        if case.kind == "tiny" and worker or case.kind == "whole" and overlap or case.settings.get("steps") == 4:
            found = gpu_bench.measure(case, "cpu", full=False)
            assert "error" not in found and gpu_bench.shown(found)


def test_without_a_gpu_one_sentence(capsys):
    assert main(["gpu"]) == 2
    said = capsys.readouterr().err
    assert "no CUDA GPU" in said and "--rehearse" in said and said.count("\n") == 1


def test_a_line_that_fails_or_hangs_keeps_its_place(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_bench, "CASES", gpu_bench.CASES[:2])
    replies = iter([{"error": "not done after 60 s"}, {"grew": 0}])
    monkeypatch.setattr(gpu_bench, "apart", lambda *_: next(replies))
    assert main(["gpu", "--rehearse", "--out", str(tmp_path)]) == 1
    kept = json.loads((tmp_path / "results.json").read_text())
    assert list(kept["results"].values()) == [{"error": "not done after 60 s"}, {"grew": 0}]
    assert "not measured: not done after 60 s" in (tmp_path / "results.md").read_text() and kept["about"]["commit"]


def test_a_line_in_a_process_that_is_cut_off():
    assert gpu_bench.apart(gpu_bench.CASES[1], "cpu", False, 0.2)["error"] == "not done after 0 s"
    assert "KeyError: 'no such'" in gpu_bench.apart(gpu_bench.Case("x", "no such"), "cpu", False, 60)["error"]


def test_the_plan_fits_into_the_time():
    names = [case.name for case in gpu_bench.CASES]
    assert len(set(names)) == len(names) and names.index("frame to picture, 512 x 512, T = 2, fp16") < 8


def test_what_a_gpu_machine_may_lack_is_not_imported():
    "A rented machine has PyTorch and transformers; it need not have everything. See `make gpu-folder`."
    lacking = "av cv2 onnxruntime einops timm peft psutil matplotlib IPython ipywidgets skimage accelerate".split()
    script = f"import sys; sys.modules.update(dict.fromkeys({lacking})); import live2diff_nb.gpu_bench"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_another_implementation_comes_after_our_captured_step(tmp_path):
    (tmp_path / "step.py").write_text("def make(height, width, steps, dtype): return lambda: None")
    words = ["--against", str(tmp_path), "--only"]
    for only, place in (("step", 2), ("parity", 0)):
        args = gpu_bench.parsed([*words, only])
        assert [case.kind for case in gpu_bench.planned(args)].index("against") == place


def test_no_line_gets_more_time_than_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_bench, "CASES", gpu_bench.CASES[:1])
    given = []
    monkeypatch.setattr(gpu_bench, "apart", lambda *words: given.append(words[-1]) or {"passed": False})
    assert main(["gpu", "--rehearse", "--minutes", "0.5", "--out", str(tmp_path)]) == 1      # a check has failed
    assert 0 < given[0] <= 150                            # a rehearsal has five times as much
