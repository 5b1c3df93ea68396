"""What files say of themselves is obeyed or named: what a network predicts, numbered pieces, variants, hubs."""
import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file

from live2diff_nb.pipeline.live2diff import Live2Diff
from live2diff_nb.weights.parts import BASE, choices, locate
from live2diff_nb.weights.real import load_real, open_parts, read_parts
from live2diff_nb.weights.rehearse import to_single_file, write_rehearsal

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    files = write_rehearsal(tmp_path_factory.mktemp("facts") / "set")
    return {**files, "sd": load_file(f"{files['name']}/{UNET}")}


@pytest.fixture
def files(made, tmp_path):
    "A set of its own for each test, which may change its files."
    shutil.copytree(Path(made["name"]).parent, tmp_path / "set")
    place = tmp_path / "set"
    return dict(name=str(place / "sd15"), motion=str(place / "live2diff.ckpt"), vae=str(place / "taesd"))


def load(files, **settings): return load_real(**files, device="cpu", height=64, width=64, **settings)
def kind(files, **settings): return open_parts(**files, **settings)["noise"].get("prediction_type")
def read(files): return read_parts(open_parts(**files), torch.device("cpu"), torch.float32, None)


# ---- what is predicted ------------------------
def say(files, **facts):
    folder = Path(files["name"]) / "scheduler"
    folder.mkdir(exist_ok=True)
    (folder / "scheduler_config.json").write_text(json.dumps({"_class_name": "DDIMScheduler", **facts}))


def test_a_folder_of_a_v_model(files):
    assert kind(files) is None
    say(files, prediction_type="v_prediction", beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    with warnings.catch_warnings(action="error", category=UserWarning): plain = load(files)["scheduler"]
    assert plain.config.prediction_type == "v_prediction"
    say(files, prediction_type="v_prediction", rescale_betas_zero_snr=True)
    zero = load(files, noise={"beta_schedule": "linear"})["scheduler"]
    assert zero.config.prediction_type == "v_prediction" and zero.alphas_cumprod[-1] < 1e-6 < plain.alphas_cumprod[-1]
    assert zero.alphas_cumprod[0] == pytest.approx(plain.alphas_cumprod[0].item(), abs=1e-3)


@pytest.mark.parametrize("facts", [{"beta_end": 0.02}, {"beta_schedule": "squaredcos_cap_v2"}, {"trained_betas": [0.1]},
                                   {"num_train_timesteps": 500}], ids=str)
def test_other_noise_is_named(files, facts):
    say(files, **facts)
    with pytest.warns(UserWarning, match=f"scheduler_config.json says .*{next(iter(facts))}"): kind(files)


def test_an_unknown_kind_is_refused(files):
    say(files, prediction_type="flow_prediction")
    with pytest.raises(ValueError, match="sd15 cannot .*flow_prediction"): load(files)
    (Path(files["name"]) / "scheduler" / "scheduler_config.json").write_text("{")
    with pytest.raises(ValueError, match="scheduler_config.json is not"): kind(files)


@pytest.mark.parametrize("mark", ["key", "header", "trainer", "yaml", "pickle"])
def test_a_single_file_of_a_v_model_as_dreambooth(made, files, mark, tmp_path):
    state, header = to_single_file(made["sd"]), {}
    if mark in ("key", "pickle"): state |= {"v_pred": torch.ones(1), "ztsnr": torch.ones(1)}
    if mark == "header": header = {"modelspec.prediction_type": "v"}
    if mark == "trainer": header = {"ss_v_parameterization": "True"}
    path = tmp_path / ("style.ckpt" if mark == "pickle" else "style.safetensors")
    if mark == "pickle": torch.save({"state_dict": state}, path)
    else: save_file(state, path, header)
    if mark == "yaml": path.with_suffix(".yaml").write_text('model:\n  params:\n    parameterization: "v"\n')
    assert kind(files, dreambooth=path) == "v_prediction"
    if mark == "key":
        say(files, prediction_type="v_prediction")
        save_file(to_single_file(made["sd"]), tmp_path / "plain.safetensors")
        assert kind(files, dreambooth=tmp_path / "plain.safetensors") is None          # its UNet replaces the folder's


def test_a_saved_pipeline_keeps_what_it_predicts_and_noise_wins(files, tmp_path):
    say(files, prediction_type="v_prediction")
    Live2Diff.from_pretrained(**files, device="cpu", height=64, width=64).save_pretrained(tmp_path / "saved")
    assert kind(dict(name=tmp_path / "saved")) == "v_prediction"
    again = load(dict(name=tmp_path / "saved"), noise={"prediction_type": "epsilon"})
    assert again["scheduler"].config.prediction_type == "epsilon"


# ---- numbered pieces, variants ------------------------
def cut(folder, stem, ending, count=3, variant="", index=True):
    "Cut the weights of a part into numbered files."
    whole = next(folder.glob("*.safetensors"))
    state = load_file(whole)
    whole.unlink()
    names = sorted(state)
    def file(n): return f"{stem}{variant}-{1 + n * count // len(names):05}-of-{count:05}{ending}"
    where = {name: file(n) for n, name in enumerate(names)}
    for file in set(where.values()):
        piece = {name: state[name] for name in names if where[name] == file}
        save_file(piece, folder / file) if ending == ".safetensors" else torch.save(piece, folder / file)
    if index: (folder / f"{stem}{ending}.index{variant}.json").write_text(json.dumps({"weight_map": where}))


@pytest.mark.parametrize("ending, index, variant", [(".safetensors", True, ""), (".safetensors", False, ".fp16"),
                                                    (".safetensors", True, ".fp16"), (".bin", True, ""),
                                                    (".bin", False, "")])
def test_parts_in_pieces(made, files, ending, index, variant):
    base, pickled = Path(files["name"]), ending == ".bin"
    plain = read({key: made[key] for key in ("name", "motion", "vae")})
    cut(base / "unet", "diffusion_pytorch_model", ending, 3, variant, index)
    cut(base / "text_encoder", "pytorch_model" if pickled else "model", ending, 2, variant, index)
    cut(Path(files["vae"]), "diffusion_pytorch_model", ending, 2, variant, index)
    found = read(files)
    for part in ("unet", "vae", "text_encoder"):
        state = found[part].state_dict()
        assert all(torch.equal(value, state[name]) for name, value in plain[part].state_dict().items())
    gone = sorted((base / "unet").glob("*-of-*"))[1]
    gone.unlink()
    with pytest.raises(ValueError, match=f"{gone.name} is missing"): read(files)


def test_half_precision_and_other_moments_of_training(made, files):
    "The usual file wins; half precision alone is read; weights without averaging are left alone."
    folder = Path(files["name"]) / "unet"
    state = load_file(folder / "diffusion_pytorch_model.safetensors")
    wrong = {name: value * 0 for name, value in state.items()}
    for other in (".fp16", ".non_ema"): save_file(wrong, folder / f"diffusion_pytorch_model{other}.safetensors")
    torch.save(wrong, folder / "diffusion_pytorch_model.bin")
    assert read(files)["unet"].conv_in.weight.abs().sum() > 0
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    save_file(state, folder / "diffusion_pytorch_model.fp16.safetensors")
    assert read(files)["unet"].conv_in.weight.abs().sum() > 0


def test_a_fresh_adapter_has_the_wanted_type(files):
    "Tensors that were made, not read, are brought to the dtype, too."
    with pytest.warns(UserWarning): found = load({"name": files["name"], "vae": files["vae"]}, dtype=torch.bfloat16)
    assert {p.dtype for p in found["unet"].parameters()} == {torch.bfloat16}


# ---- the hub ------------------------
def listing(half=True, pickled=True, whole=True):
    "What is in a repository like Stable Diffusion 1.5's first one; GB."
    parts = {"unet/diffusion_pytorch_model": 3.44, "vae/diffusion_pytorch_model": 0.335, "text_encoder/model": 0.492,
             "safety_checker/model": 1.216}
    found = {}
    for name, size in parts.items():
        old = name.replace("encoder/model", "encoder/pytorch_model").replace("checker/model", "checker/pytorch_model")
        if whole: found[f"{name}.safetensors"] = size
        if half: found[f"{name}.fp16.safetensors"] = size / 2
        if pickled: found |= {f"{old}.bin": size, f"{old}.fp16.bin": size / 2}
    found |= {"v1-5-pruned.ckpt": 7.7, "v1-5-pruned.safetensors": 7.7, "v1-5-pruned-emaonly.ckpt": 4.27,
              "v1-5-pruned-emaonly.safetensors": 4.27, "unet/diffusion_pytorch_model.non_ema.bin": 3.44,
              "unet/diffusion_pytorch_model.non_ema.safetensors": 3.44, "README.md": 0, "v1-inference.yaml": 0}
    notes = ("model_index.json", "unet/config.json", "vae/config.json", "text_encoder/config.json",
             "tokenizer/vocab.json", "tokenizer/merges.txt", "scheduler/scheduler_config.json",
             "safety_checker/config.json")
    return found | dict.fromkeys(notes, 0)


@pytest.mark.parametrize("repository, parts, gigabytes", [
    (listing(), BASE, 4.27), (listing(), BASE[:2], 3.93), (listing(pickled=False), BASE, 4.27),
    (listing(whole=False), BASE, 2.13)])
def test_only_what_is_needed_is_asked_for(tmp_path, monkeypatch, repository, parts, gigabytes):
    "The hub's own function picks the files; what it would download is put on the disk, with nothing in it."
    import huggingface_hub
    asked = set()
    def download(name, allow_patterns):
        for file in filter_repo_objects(repository, allow_patterns=allow_patterns):
            asked.add(file)
            (tmp_path / file).parent.mkdir(exist_ok=True, parents=True)
            (tmp_path / file).touch()
        return str(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert locate("someone/sd", parts=parts) == tmp_path
    assert sum(repository[file] for file in asked) == pytest.approx(gigabytes, abs=0.01)
    wanted = {"unet/config.json", "tokenizer/vocab.json", "scheduler/scheduler_config.json"} if parts == BASE else set()
    assert wanted <= asked and not any(file.startswith(("safety", "README", "v1-")) for file in asked)


@pytest.mark.parametrize("there, taken", [
    (["config.json", "diffusion_pytorch_model.safetensors", "taesd_decoder.safetensors", "diffusion_pytorch_model.bin"],
     ["config.json", "diffusion_pytorch_model.safetensors"]),
    (["pytorch_lora_weights.safetensors", "README.md", "example.png"], ["pytorch_lora_weights.safetensors"]),
    (["config.json", "preprocessor_config.json", "model.safetensors", "pytorch_model.bin"],
     ["config.json", "model.safetensors", "preprocessor_config.json"]),
    (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"],
     ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"])])
def test_repositories_of_one_part(there, taken):
    assert sorted(filter_repo_objects(there, allow_patterns=choices(("",))[0])) == taken
