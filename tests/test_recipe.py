"The paper's recipe: its names and switches, one real step at the size of Stable Diffusion 1.5, and the command."
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from live2diff_nb.training.chunks import ChunkRun, Frozen
from live2diff_nb.cli import main
from live2diff_nb.engine.masks import MODES
from live2diff_nb.pipeline.live2diff import Live2Diff
from live2diff_nb.training.recipe import NAMED, change, load_parts, open_clips, read_recipe
from live2diff_nb.weights.rehearse import write_rehearsal

TOY = change(NAMED["toy"], dict(size=32, frames=4, warmup=2, steps=[2, 2], strips=0, batch=2, per_pass=1))


@pytest.fixture(scope="module")
def clips(): return [open_clips(TOY)[i] for i in range(8)]


def trained(folder, clips, stage=1, **changes):
    "A run after one stage."
    run = ChunkRun(change(TOY, changes), folder, clips)
    start = {name: p.detach().clone() for name, p in run.unet.named_parameters()}
    run.train(stage)
    return run, {name for name, p in run.unet.named_parameters() if not torch.equal(p, start[name])}


def test_the_papers_values():
    "Section 3.5."
    r = read_recipe("sd15")
    assert (r.frames, r.warmup, r.size, r.lr, r.batch, r.per_pass) == (16, 8, 256, 1e-4, 4 * 8 * 32, 4)
    assert (r.steps, r.mask, r.adapter) == ((3000, 6000), "live2diff", True)


def test_optimiser_is_plain_adam_at_a_steady_rate(tmp_path, clips):
    run, _ = trained(tmp_path, clips)
    group = run.optimizer.param_groups[0]
    assert group["weight_decay"] == 0 and group["betas"] == (0.9, 0.999) and group["lr"] == TOY.lr


@pytest.mark.parametrize("mode", MODES)
def test_each_mask_is_what_training_sees(tmp_path, clips, mode):
    "A frame of the chunk changes exactly the outputs of the frames that see it."
    run = ChunkRun(change(TOY, {"mask": mode, "warmup": 2}), tmp_path, clips)
    for block in (*run.unet.down_blocks, *run.unet.up_blocks):
        for module in block.motion_modules: torch.nn.init.normal_(module.temporal_transformer.proj_out.weight, std=0.1)
    x = torch.randn(4, 4, 8, 8)
    def out(x):
        with torch.no_grad(): return run.unet(x, torch.full((4,), 100), torch.zeros(1, 16, 64), 0, run.views())
    plain = out(x)
    for last in (3, 1):
        other = x.clone()
        other[last] += 1
        changed = [(a - b).abs().max() > 1e-5 for a, b in zip(plain, out(other))]
        everyone = [0, 1, 2, 3]
        known = {"live2diff": {3: [3], 1: everyone}, "causal": {3: [3], 1: [1, 2, 3]}}
        sees = known.get(mode, {3: everyone, 1: everyone})[last]
        assert [i for i, it in enumerate(changed) if it] == sees


def test_stages_and_adapter_switch(tmp_path, clips):
    _, moved = trained(tmp_path / "1", clips, 1)
    assert moved and all(".motion_modules." in name for name in moved)
    for adapter in (True, False):
        _, moved = trained(tmp_path / str(adapter), clips, 2, adapter=adapter)
        assert "conv_in.weight" in moved and any(name.startswith("flow_conv_in") for name in moved) == adapter


def test_a_new_adapter_changes_nothing(tmp_path, clips):
    run = ChunkRun(TOY, tmp_path, clips)
    for p in run.unet.flow_conv_in.conv_out.parameters(): torch.nn.init.zeros_(p)
    with torch.no_grad(): a, b = (run.loss(clips[:1], [np.random.default_rng(0)], stage).item() for stage in (1, 2))
    assert a == b


def test_checkpointing_changes_no_weight(tmp_path, clips):
    a, b = (trained(tmp_path / str(on), clips, 2, checkpointing=on)[0] for on in (False, True))
    assert all(torch.allclose(x, y, atol=1e-6) for x, y in zip(a.unet.parameters(), b.unet.parameters()))


def test_mixed_precision_is_seen_inside_and_weights_stay_single(tmp_path, clips):
    AcceleratorState._reset_state(True)
    try:
        run, seen = ChunkRun(change(TOY, {"precision": "bf16"}), tmp_path, clips), set()
        run.unet.conv_in.register_forward_hook(lambda module, args, out: seen.add(out.dtype))
        run.train(1)
        assert seen == {torch.bfloat16} and {p.dtype for p in run.unet.parameters()} == {torch.float32}
    finally: AcceleratorState._reset_state(True)


def test_accumulation_is_the_same_batch(tmp_path, clips):
    a, b = (trained(tmp_path / str(n), clips, 1, per_pass=n)[0] for n in (1, 2))
    x, y = (torch.cat([p.flatten() for p in run.unet.parameters()]) for run in (a, b))
    assert (x - y).abs().max() < 1e-4


def test_starts_from_animatediffs_names(tmp_path):
    "A motion file without depth adapter, wrapped as AnimateDiff's is; with it a run ends in a folder that streams."
    files = write_rehearsal(tmp_path / "set")
    stored = torch.load(files["motion"], weights_only=True)["state_dict"]
    motion = {k: v for k, v in stored.items() if ".motion_modules." in k}
    torch.save({"state_dict": motion}, tmp_path / "mm.ckpt")
    words = [f"weights={files['name']}", f"motion={tmp_path / 'mm.ckpt'}", f"vae={files['vae']}"]
    words += "size=64 frames=4 warmup=2 batch=1 per_pass=1 strips=1 steps=1,1".split()
    with pytest.warns(UserWarning, match="no depth adapter"): unet = load_parts(read_recipe("sd15", words))["unet"]
    loaded = {name: p for name, p in unet.named_parameters() if ".motion_modules." in name}
    assert all(torch.equal(p, motion["module." + name].float()) for name, p in loaded.items())
    assert main(["train", "sd15", *words, "--out", str(tmp_path / "run")]) == 0
    assert sorted(p.name for p in (tmp_path / "run/strips").iterdir()) == ["stage1_000001.png", "stage2_000001.png"]
    pipe = Live2Diff.from_pretrained(tmp_path / "run/result", device="cpu")
    assert len(list(pipe.stream(np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), np.uint8)))) == 6


def test_pairs_are_asked_for_by_style():
    frozen = Frozen(load_parts(TOY))
    pair = dict(photo=np.zeros((2, 32, 32, 3), np.uint8), styled=np.full((2, 32, 32, 3), 255, np.uint8), style=2)
    asked = [frozen.asked(pair, np.random.default_rng(i)) for i in range(200)]
    assert 0.04 < np.mean([side == "photo" for _, side in asked]) < 0.18
    assert all(("photo" in prompt) == (side == "photo") for prompt, side in asked)


def test_a_recipe_or_a_folder_that_is_none_gets_one_sentence(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_bytes("base: toy\r\nlr: 1e-2\r\n".encode("utf-16"))
    assert read_recipe(tmp_path / "mine.yaml").lr == 0.01
    (tmp_path / "bad.yaml").write_text("lr: 1\nmask: [a\n")
    with pytest.raises(ValueError, match="bad.yaml, line 3 is no YAML"): read_recipe(tmp_path / "bad.yaml")
    with pytest.raises(ValueError, match="data=.a is no YAML"): read_recipe("toy", ["data=[a"])
    for name, says in (("empty", "no readable film"), ("pictures", "holds 2 pictures and no film")):
        (tmp_path / name).mkdir()
        for k in range(2 * (name == "pictures")): (tmp_path / name / f"{k}.png").write_bytes(b"")
        assert main(["train", "toy", f"data={tmp_path / name}", "--out", str(tmp_path / "out")]) == 2
        assert says in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_rate_at_which_training_explodes_is_said_in_one_sentence(tmp_path, capsys):
    assert main(["train", "toy", "lr=1e30", "steps=9,0", "size=32", "--out", str(tmp_path / "run")]) == 2
    assert "became" in capsys.readouterr().err


def test_the_command_says_what_it_takes_and_answers_mistakes(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/result").write_text("mine")
    assert main(["train", "sd15", "checkpointing=true", "--estimate", "--out", str(tmp_path / "mine")]) == 0
    said = capsys.readouterr().out
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "result"]                # an estimate writes nothing
    assert "stage 1: 16.58" in said and "stage 2: 27.79" in said and "optimiser 10.22" in said
    assert main(["train", "sd15", "masc=causal"]) == 2
    assert "did you mean 'mask'" in capsys.readouterr().err


FULL_STEP = """
import json, resource, sys, time
import torch
torch.set_num_threads(2)
from live2diff_nb.training.chunks import ChunkRun
from live2diff_nb.training.recipe import open_clips, read_recipe, unet_shape
from live2diff_nb.training.memory import training_bytes
words = "weights=random size=64 frames=4 warmup=2 batch=1 per_pass=1 steps=1,0 checkpointing=true"
recipe = read_recipe("sd15", words.split())
need = training_bytes(recipe, unet_shape(recipe)[0], 1)
losses, run = [], ChunkRun(recipe, sys.argv[1])
before = {name: p.flatten()[:64].clone() for name, p in run.unet.named_parameters()}
class Done(Exception): pass
def stop(step, loss):
    losses.append(loss)
    raise Done                                                      # before a checkpoint of 8.5 GB is written
try: run.train(1, stop)
except Done: pass
moved = [name for name, p in run.unet.named_parameters() if not torch.equal(p.flatten()[:64], before[name])]
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps(dict(need=need, peak=int(peak.split()[1]) * 1024, losses=losses, moved=moved)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
def test_one_real_step_at_the_size_of_stable_diffusion(tmp_path):
    "Stage 1 on random weights, four frames of 64 x 64: of 1.28 billion weights the motion modules' 417 million move."
    import psutil
    if psutil.virtual_memory().available < 14e9: pytest.skip("needs 14 GB of memory")
    done = subprocess.run([sys.executable, "-c", FULL_STEP, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert np.isfinite(said["losses"]).all() and said["moved"]
    assert all(".motion_modules." in name for name in said["moved"])
    total = sum(said["need"].values())
    print(f"estimated {total / 1e9:.2f} GB, at most {said['peak'] / 1e9:.2f} GB in use")
    assert 10e9 < total < said["peak"] < total + 2.5e9          # beside the step: Python, libraries, the frozen models


@pytest.mark.parametrize("word, fault", [
    ("size=256.7", "whole number"), ("steps=[300.9,600]", "whole number"), ("lr=nan", "above 0"), ("lr=-1", "above 0"),
    ("batch=0", "at least 1"), ("size=0", "at least 1"), ("every=-1", "at least 0"), ("seed=-1", "at least 0")])
def test_values_that_cannot_be(word, fault):
    with pytest.raises(ValueError, match=fault): read_recipe("tiny", [word])


def test_a_recipe_that_names_itself(tmp_path):
    (tmp_path / "own.yaml").write_text(f"base: {tmp_path / 'own.yaml'}")
    with pytest.raises(ValueError, match="itself"): read_recipe(tmp_path / "own.yaml")
