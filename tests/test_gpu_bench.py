"""`bench gpu` rehearsed without a GPU: every line of it runs, on toys, and what goes wrong keeps the rest."""
import json
import subprocess
import sys

from live2diff_nb import gpu_bench
from live2diff_nb.bench import main


def test_lines_run_on_toys():
    "The whole way and a step of four rows, in this process; the rest runs in the page `gpu`."
    for case in gpu_bench.CASES:
        if case.kind in ("tiny", "whole") or case.settings.get("steps") == 4:
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
    assert gpu_bench.apart(1, "cpu", False, 0.2)["error"] == "not done after 0 s"
    assert "Error" in gpu_bench.apart(999, "cpu", False, 60)["error"]


def test_the_plan_fits_into_the_time():
    names = [case.name for case in gpu_bench.CASES]
    assert len(set(names)) == len(names) and names.index("whole way, 512 x 512, T = 2, fp16") < 8


def test_it_runs_without_av():
    "A rented machine has PyTorch; it need not have everything."
    script = "import sys; sys.modules['av'] = None; import live2diff_nb.gpu_bench"
    subprocess.run([sys.executable, "-c", script], check=True)
