"Where results go: nothing of the user's is lost, also with links, full disks and two runs at once; every writer asks."
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from live2diff_nb import Live2Diff
from live2diff_nb.cli import main
from live2diff_nb.data.shards import write_shards
from live2diff_nb.data.worlds import RenderedClips
from live2diff_nb.files.files import to_safetensors
from live2diff_nb.files.places import claim, held, own_place, read_record, whole_file, whole_folder
from live2diff_nb.judge.evaluate import main as evaluate, write_report
from live2diff_nb.tiny.build import main as build
from live2diff_nb.data.crops import paint_crops
from live2diff_nb.data.teachers import STYLES
from live2diff_nb.training.chunks import train_recipe
from live2diff_nb.training.loop import Run
from live2diff_nb.training.memory import write_fsdp
from live2diff_nb.training.recipe import NAMED, change, open_clips
from live2diff_nb.weights.rehearse import write_rehearsal

SHORT = "steps=1,0 batch=1 per_pass=1 strips=0 size=32 frames=4 warmup=2".split()
TOY = change(NAMED["toy"], dict(size=32, frames=4, warmup=2, steps=[1, 0], strips=0, batch=1, per_pass=1))


@pytest.fixture(scope="module")
def clips(): return [open_clips(TOY)[i] for i in range(8)]


def contents(folder): return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def linked(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/thesis.txt").write_text("two years of work")
    (folder / "result").symlink_to(tmp_path / "elsewhere")


def plain(folder, tmp_path):
    (folder / "result/chapters").mkdir(parents=True)
    (folder / "result/chapters/thesis.txt").write_text("two years of work")


def a_file(folder, tmp_path): (folder / "result").write_text("two years of work")
def motion(folder, tmp_path): (folder / "motion.safetensors").write_text("two years of work")
def checkpoint(folder, tmp_path): (folder / "stage1.pt").write_text("two years of work")
def record(folder, tmp_path): (folder / "run.json").write_text("[1, 2]")


@pytest.mark.parametrize("put", (linked, plain, a_file, motion, checkpoint, record))
def test_training_touches_nothing_it_did_not_write(tmp_path, capsys, clips, put):
    folder = tmp_path / "project"
    folder.mkdir()
    put(folder, tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="give another folder"): train_recipe(TOY, folder, clips)
    after = contents(tmp_path)
    assert {name: after.get(name) for name in before} == before
    assert not [name for name in after if name.endswith((".pt", ".safetensors")) and name not in before]


def test_the_command_refuses_a_folder_that_holds_somebodys_result(tmp_path, capsys):
    plain(tmp_path, tmp_path)
    assert main(["train", "toy", *SHORT, "--out", str(tmp_path)]) == 2
    assert "thesis.txt was not written by the run" in capsys.readouterr().err
    assert (tmp_path / "result/chapters/thesis.txt").read_text() == "two years of work"
    assert main(["train", "toy", *SHORT, "--out", str(tmp_path / "result/chapters/thesis.txt")]) == 2
    assert "thesis.txt is a file: give the name of a folder" in capsys.readouterr().err


def test_another_run_in_the_same_folder_says_so(tmp_path, capsys):
    "Other data, rate, seed, mask or network; resumed on purpose; finished; more steps; fewer."
    out = ["--out", str(tmp_path / "run")]
    def train(*words): return main(["train", "toy", *SHORT, *words, *out]), capsys.readouterr()
    code, told = train()
    said = [line for line in told.err.splitlines() if line.startswith("stage")]
    assert code == 0 and "\r" not in told.err and len(said) == 1 and said[0].startswith("stage 1: step 1 of 1, loss")
    first = (tmp_path / "run/motion.safetensors").read_bytes()
    others = {"lr=5e-3 seed=7": "seed 0 -> 7, lr 0.001 -> 0.005", "mask=causal": "'live2diff' -> 'causal'"}
    for words, said in others.items():
        code, told = train(*words.split())
        assert code == 2 and "other settings" in told.err and said in told.err and "--resume" in told.err
    for words in (["motion=null"], ["motion=null", "--resume"]):
        code, told = train(*words)
        assert code == 2 and "another network" in told.err and "Traceback" not in told.err
    assert (tmp_path / "run/motion.safetensors").read_bytes() == first
    code, told = train()
    assert code == 0 and "finished before, at step 1" in told.out and "saved" in told.out
    code, told = train("lr=5e-3", "--resume")
    assert code == 2 and "is finished: ask for more steps to continue with other settings" in told.err
    code, told = train("steps=2,0", "lr=5e-3", "--resume")
    assert code == 0 and "resumes at step 1 of 2" in told.out
    assert (tmp_path / "run/motion.safetensors").read_bytes() != first
    code, told = train("lr=5e-3")
    assert code == 2 and "has done 2 steps already, more than the 1 asked for" in told.err


def test_new_films_are_new_data(tmp_path):
    def run(clips, resume=False): return train_recipe(TOY, tmp_path / "run", clips, resume=resume)
    class Films(RenderedClips): listing = "1 film"
    films = Films(frames=4, size=32, flow=False)
    run(films)
    films.listing = "2 films"
    with pytest.raises(ValueError, match="clips '1 film' -> '2 films'"): run(films)


FULL = """
import resource, signal, sys, torch
from pathlib import Path
from live2diff_nb.training.checkpoints import load_state, save_state
path = Path(sys.argv[1])
save_state(path, dict(step=1, x=torch.zeros(10)))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2 ** 16, 2 ** 16))
try: save_state(path, dict(step=2, x=torch.zeros(10 ** 6)))
except OSError as error: print(error)
print(load_state(path)["step"], sorted(p.name for p in path.parent.iterdir()))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files")
def test_a_full_disk_leaves_the_checkpoint_of_before(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path / "a.pt"], capture_output=True, text=True)
    said, left = done.stdout.splitlines()
    assert "a.pt could not be written" in said and "what was there before is kept" in said
    assert left == "1 ['a.pt']"


def test_two_runs_at_once(tmp_path):
    other = ("import sys, time; from live2diff_nb.files.places import held\n"
             "with held(sys.argv[1]): print('in', flush=True); time.sleep(60)")
    with subprocess.Popen([sys.executable, "-c", other, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "in\n"
        run = Run(torch.nn.Linear(2, 2), tmp_path)
        with pytest.raises(ValueError, match="another run is at work"): run.fit("x", None, 1)
        process.kill()
    with held(tmp_path): pass                                                       # let go, however the other ended


def test_a_checkpoint_of_something_else_is_named(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "x.pt")
    run = Run(torch.nn.Linear(2, 2), tmp_path)
    with pytest.raises(ValueError, match="x.pt is not of a run that left its settings"): run.fit("x", None, 1)
    run.resume = True
    with pytest.raises(ValueError, match="x.pt holds another network"): run.fit("x", None, 1)


@pytest.fixture(scope="module")
def pipe(): return Live2Diff.from_pretrained("tiny", device="cpu", height=64, width=64, graphs=False)


def write_films(place, pipe): write_shards(RenderedClips(frames=2, size=32), place, 1)


FOLDERS = {"shards": write_films, "rehearsal": lambda place, _: write_rehearsal(place),
           "save_pretrained": lambda place, pipe: pipe.save_pretrained(place)}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_must_be_new_or_empty_and_is_there_whole_or_not_at_all(tmp_path, pipe, name):
    if name == "shards": pytest.importorskip("webdataset")
    (tmp_path / "mine").mkdir()
    for kept in ("live2diff.ckpt", "clips-000000.tar", "index.json"): (tmp_path / "mine" / kept).write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="is not empty"): FOLDERS[name](tmp_path / "mine", pipe)
    with pytest.raises(ValueError, match="is a file"): FOLDERS[name](tmp_path / "mine/index.json", pipe)
    assert contents(tmp_path) == before
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    FOLDERS[name](tmp_path / "link", pipe)
    written = contents(tmp_path / "empty")
    assert written and not [path for path in written if ".part" in path]
    with pytest.raises(ValueError, match="is not empty"): FOLDERS[name](tmp_path / "empty", pipe)   # its own, too
    assert contents(tmp_path / "empty") == written


def test_a_file_that_is_there_is_refused(tmp_path):
    torch.save({"w": torch.zeros(2)}, tmp_path / "a.ckpt")
    (tmp_path / "a.safetensors").write_text("mine")
    for write in (lambda: to_safetensors(tmp_path / "a.ckpt"), lambda: write_fsdp(tmp_path / "a.safetensors")):
        with pytest.raises(ValueError, match="a.safetensors is there already"): write()
    assert (tmp_path / "a.safetensors").read_text() == "mine"


def test_a_link_to_a_file_is_followed_and_stays(tmp_path):
    (tmp_path / "big").mkdir()
    (tmp_path / "x.txt").symlink_to(tmp_path / "big/x.txt")
    for text in ("one", "two"):
        with whole_file(tmp_path / "x.txt") as part: part.write_text(text)
    assert (tmp_path / "x.txt").is_symlink() and (tmp_path / "big/x.txt").read_text() == "two"


def test_a_moved_run_knows_its_own_files(tmp_path):
    def write(folder, text):
        with own_place(folder, "result") as new:
            new.mkdir()
            (new / text).write_text(text)
    write(tmp_path / "a", "one")
    (tmp_path / "a").rename(tmp_path / "b")
    write(tmp_path / "b", "two")
    assert [path.name for path in (tmp_path / "b/result").iterdir()] == ["two"]
    assert list(read_record(tmp_path / "b")["made"]) == ["result/two"]
    os.symlink(tmp_path, tmp_path / "b/result/link")
    with pytest.raises(ValueError, match="link was not written by the run"): write(tmp_path / "b", "three")


def test_a_table_of_another_question_stays(tmp_path):
    write_report(tmp_path / "new", "page", {})
    write_report(tmp_path / "new", "page again", {})
    (tmp_path / "table.md").write_text("mine")
    with pytest.raises(ValueError, match="table.md was not written"): write_report(tmp_path, "page", {})
    with pytest.raises(ValueError, match="table.md is not of a run"): evaluate(["--out", str(tmp_path)])
    claim(tmp_path / "new", "table", dict(weights="other"), resume=None)
    with pytest.raises(ValueError, match="other settings \\(weights 'other' -> 'tiny'\\): give another folder$"):
        evaluate(["--out", str(tmp_path / "new")])
    assert (tmp_path / "table.md").read_text() == "mine"


def test_the_small_models_parts_stay_where_somebody_put_them(tmp_path):
    (tmp_path / "crops").mkdir()
    np.save(tmp_path / "crops/000.npy", np.zeros((1, 1 + len(STYLES), 96, 96, 3), np.uint8))
    (tmp_path / "vae/vae").mkdir(parents=True)
    (tmp_path / "vae/vae/config.json").write_text("mine")
    with pytest.raises(ValueError, match="config.json was not written"): build(["vae", "--folder", str(tmp_path)])
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets/mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty"): build(["export", "--folder", str(tmp_path)])
    assert contents(tmp_path / "vae/vae") == {"config.json": b"mine"}


def test_crops_of_other_pictures_are_not_taken_for_these(tmp_path):
    def paint(x): return x
    one, two = (np.full((256, 256, 3), k, np.uint8) for k in (50, 90))
    settings = dict(count=2, size=32, teachers={"a": paint}, each=2)
    for _ in range(2): assert len(paint_crops([one], tmp_path, **settings)) == 2
    with pytest.raises(ValueError, match="000.npy holds crops of other"): paint_crops([two], tmp_path, **settings)


def test_a_whole_folder_leaves_nothing_when_it_fails(tmp_path):
    def fail():
        with whole_folder(tmp_path / "new") as part:
            save_file({"x": torch.zeros(2)}, part / "a.safetensors")
            raise RuntimeError("no space left")
    with pytest.raises(OSError, match="could not be written"): fail()
    assert not (tmp_path / "new").exists()
