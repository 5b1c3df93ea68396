"""Damaged, odd and random files in the place of weights: a result, or one sentence with the file's name."""
import json
import os
import pickle
import random
import shutil
import signal
import struct
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from live2diff_nb.depth.hub import load_depth
from live2diff_nb.engine.unet import StreamUNet
from live2diff_nb.files.files import fetch, open_weights, to_safetensors
from live2diff_nb.files.folders import open_part
from live2diff_nb.files.formats import fill
from live2diff_nb.training.checkpoints import load_state
from live2diff_nb.weights.lora import KOHYA, layer_names, read_lora
from live2diff_nb.weights.real import open_parts, read_parts
from live2diff_nb.weights.rehearse import SMALL, random_state, to_single_file, write_rehearsal


@pytest.fixture(scope="module")
def room(tmp_path_factory): return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def whole(room):
    "Whole files of every kind, as bytes by name; and the set they belong to."
    files, unet = write_rehearsal(room / "set"), StreamUNet(**SMALL)
    name = next(name for name in layer_names(unet).values() if name.endswith("attn1.to_q"))
    flat = KOHYA["unet"] + name.replace(".", "_")
    lora = {f"{flat}.lora_down.weight": torch.ones(2, 32), f"{flat}.lora_up.weight": torch.ones(32, 2),
            f"{flat}.alpha": torch.tensor(2.0)}
    notes = {"lora_adapter_metadata": json.dumps({"unet.r": 2, "unet.lora_alpha": 2})}
    save_file(lora, room / "lora.safetensors", notes)
    torch.save(lora, room / "lora.pt")
    sd = load_file(room / "set/sd15/unet/diffusion_pytorch_model.safetensors")
    save_file(to_single_file(sd), room / "single.safetensors")
    torch.save({"state_dict": to_single_file(sd)}, room / "single.ckpt")
    return dict(files=files, unet=unet.requires_grad_(False))


# ---- damage ------------------------
def header_of(data):
    size, = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def with_header(header, rest):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + rest


NOTES = ("{", "[1]", '{"unet.r": "x"}', '{"unet.lora_alpha": NaN, "unet.r": 2}', '{"unet.alpha_pattern": {"(": 1}}',
         "[" * 9999)


def lie(what, rng):
    "A safetensors file whose header says something untrue."
    def damaged(data):
        header, rest = header_of(data)
        name = rng.choice([name for name in header if name != "__metadata__"])
        entry = header[name]
        if what == "type": entry["dtype"] = rng.choice(["F4", "F6_E2M3", "Q8", "I64", "BOOL", 7])
        if what == "place": entry["data_offsets"] = [rng.choice([-1, 0, 2**63]), rng.choice([1, 2**40])]
        if what == "shape": entry["shape"] = rng.choice([[2**40, 2**40], [-1], [], [0], [10**9], "x"])
        if what == "name": header["../../" + name] = header.pop(name)
        if what == "notes": header["__metadata__"] = {"lora_adapter_metadata": rng.choice(NOTES)}
        if what == "deep": header = b'{"a":' * 20000
        return with_header(header, rest)
    return damaged


def length(number): return lambda data: struct.pack("<Q", number) + data[8:]
def cut(share): return lambda data: data[: int(len(data) * share)]


def flipped(rng, count):
    def damaged(data):
        data = bytearray(data)
        for _ in range(count): data[rng.randrange(min(len(data), 4000))] = rng.randrange(256)
        return bytes(data)
    return damaged


class Evil:
    def __init__(self, canary): self.canary = canary
    def __reduce__(self): return os.system, (f"touch '{self.canary}'",)


def odd_contents(room, rng):
    "Contents that were never weights, by the ending under which they come."
    def pickled(thing): return pickle.dumps(thing, protocol=rng.choice([2, 4]))
    def saved(thing, **how):
        torch.save(thing, room / "tmp.pt", **how)
        return (room / "tmp.pt").read_bytes()
    def zipped(**members):
        with zipfile.ZipFile(room / "tmp.zip", "w") as file:
            for name, text in members.items(): file.writestr(name, text)
        return (room / "tmp.zip").read_bytes()
    evil = Evil(room / "ran")
    for ending in (".safetensors", ".ckpt", ".pt", ".bin", ".onnx"): yield ending, rng.randbytes(rng.randrange(1, 3000))
    lora = {"lora_unet_x.alpha": torch.ones(2, 2), "lora_unet_x.lora_up.weight": torch.tensor(1.0)}
    yield from [(".safetensors", b""), (".ckpt", b"\0" * 100), (".pt", b"\x80"),
                (".bin", b"\x80\x02" + rng.randbytes(200)), (".pt", saved(lora)),
                (".ckpt", pickled(evil)), (".pt", saved(evil)), (".ckpt", saved({"a": evil, "b": torch.ones(1)})),
                (".pt", saved({"a": evil}, _use_new_zipfile_serialization=False)), (".bin", pickled({"a": [1, 2]})),
                (".pt", saved([1, 2])), (".pt", saved({})),
                (".ckpt", saved({"state_dict": {"a": {"b": torch.ones(1)}}})),
                (".pt", saved({1: torch.ones(1), "a": torch.ones(2)})), (".pt", zipped(a="b")),
                (".ckpt", zipped(**{"x/data.pkl": b"\x80\x02}q\0.", "x/version": "3", "../../y": "z"})),
                (".pt", saved(torch.ones(3))), (".bin", saved({"a": torch.ones(2).to_sparse()})),
                (".safetensors", b"<!DOCTYPE html>"), (".ckpt", b"version https://git-lfs.github.com/spec/v1\n"),
                (".bin", b"GGUF" + rng.randbytes(99)), (".safetensors", b'{"weight_map": {}}')]


def damages(rng):
    "Every kind of damage to a whole safetensors file."
    yield from [cut(share) for share in (0.0001, 0.01, 0.5, 0.999)] + [flipped(rng, n) for n in (1, 1, 3, 3, 30, 30)]
    yield from [length(n) for n in (0, 1, 2**31, 2**39, 2**63, 2**64 - 1)]
    lies = ("type", "type", "place", "place", "shape", "shape", "name", "notes", "notes", "deep")
    yield from [lie(what, rng) for what in lies]
    yield lambda data: with_header({}, b"")


def values(rng, path, out):
    "A whole file, with other numbers or shapes of the right names."
    state = load_file(path)
    name = rng.choice([name for name in state if state[name].ndim])
    old = state[name]
    state[name] = rng.choice([torch.full_like(old, torch.nan), torch.full_like(old, -torch.inf), old.to(torch.int8),
                              torch.zeros(0), old.flatten(), old[None], torch.tensor(1.0), old.bool()])
    save_file(state, out)


# ---- what is asked of a reader ------------------------
def told(read, path, room):
    "True: it was read. Else one sentence with the file's name was said. Anything else fails."
    def late(*_): raise AssertionError(f"{path} hangs")
    before, old = path.exists(), signal.signal(signal.SIGALRM, late)
    signal.alarm(30)
    try:
        with warnings.catch_warnings(action="ignore"): read(path)
        said = None
    except (ValueError, OSError) as error: said = str(error)
    finally: signal.alarm(0), signal.signal(signal.SIGALRM, old)
    assert path.exists() == before and not (room / "ran").exists(), "nothing is deleted, nothing is run"
    if said is None: return True
    assert any(part in said for part in path.relative_to(room).parts), said
    assert len(said) < 700 and "Traceback" not in said, said
    return False


def test_files_of_any_content(room, whole):
    rng, read, seen = random.Random(0), 0, 0
    def converted(path):
        (room / "converted.safetensors").unlink(missing_ok=True)
        return to_safetensors(path, room / "converted.safetensors")
    readers = [lambda path: fetch(open_weights(path)), lambda path: read_lora(path, {"unet": whole["unet"]}),
               load_depth, converted, load_state]
    good = [(path.suffix, path.read_bytes()) for path in (room / "lora.safetensors", room / "lora.pt")]
    bad = [(".safetensors", damage(good[0][1])) for damage in damages(rng)]
    pickles = [cut(0.3), cut(0.9), *(flipped(rng, n) for n in (1, 3, 9, 30))]
    pickles = [(".pt", damage(good[1][1])) for damage in pickles]
    for number, (ending, data) in enumerate([*good, *bad, *pickles, *odd_contents(room, rng)]):
        path = room / f"file{number}{ending}"
        path.write_bytes(data)
        for reader in readers if ending != ".safetensors" else readers[:-1]:
            seen, read = seen + 1, read + told(reader, path, room)
    print(number + 1, "files, read by", len(readers), "readers;", read, "of", seen, "times there was a result")
    assert read >= 6


PLACES = {"unet": "sd15/unet/diffusion_pytorch_model.safetensors", "vae": "taesd/diffusion_pytorch_model.safetensors",
          "text": "sd15/text_encoder/model.safetensors"}


def test_whole_sets_with_one_odd_file(room, whole):
    "A part of a model is cut, lies, or has other numbers: found while the set is opened or read."
    rng, given = random.Random(1), whole["files"]
    def load(path): return read_parts(open_parts(**given), torch.device("cpu"), torch.float32, None)
    assert told(load, room / "set", room)
    results = []
    for part, place in PLACES.items():
        path = room / "set" / place
        data = path.read_bytes()
        for damage in (cut(0.5), lie("shape", rng), lie("type", rng), flipped(rng, 3), None, None):
            if damage: path.write_bytes(damage(data))
            else: values(rng, path, path)
            results.append(told(load, path, room))
            path.write_bytes(data)
    for note in ("sd15/unet/config.json", "taesd/config.json", "sd15/text_encoder/config.json"):
        path = room / "set" / note
        data = path.read_bytes()
        for text in (b"", b"[]", b'{"a"', rng.randbytes(50)):
            path.write_bytes(text)
            results.append(told(load, path, room))
            path.write_bytes(data)
    print(len(results), "odd sets,", sum(results), "of them loaded")
    assert told(load, room / "set", room) and sum(results) < len(results) / 3


def test_single_files_and_motion_modules(room, whole):
    rng, given = random.Random(2), whole["files"]
    for role, name in (("dreambooth", "single.safetensors"), ("name", "single.ckpt"), ("motion", "set/live2diff.ckpt")):
        data = (room / name).read_bytes()
        for number, damage in enumerate((cut(0.5), flipped(rng, 3), flipped(rng, 20), lambda data: rng.randbytes(200))):
            path = room / f"{role}{number}{Path(name).suffix}"
            path.write_bytes(damage(data))
            told(lambda path: open_parts(**{**given, role: path}), path, room)


@pytest.mark.parametrize("said", [{"a": "../../secret.safetensors"}, {"a": "/etc/passwd"}, {"a": "..\\x.bin"}, {"a": 3},
                                  [], {"a": "gone.safetensors"}, {"a": "x.py"}, None])
def test_an_index_leads_nowhere_else(tmp_path, said):
    save_file({"a": torch.ones(1)}, tmp_path / "secret.safetensors")
    folder = tmp_path / "a" / "part"
    folder.mkdir(parents=True)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": said}))
    with pytest.raises(ValueError, match="part"): open_part(folder)


@pytest.mark.parametrize("odd", [torch.nan, torch.inf, 1e30])
def test_what_is_no_number_is_refused_by_name(tmp_path, odd):
    state = random_state(torch.nn.Linear(3, 4), torch.float32)
    state["weight"][1, 2] = odd
    save_file(state, tmp_path / "odd.safetensors")
    with torch.device("meta"): layer = torch.nn.Linear(3, 4)
    with pytest.raises(ValueError, match="^weight in .*odd.safetensors"):
        fill(layer, open_weights(tmp_path / "odd.safetensors"), "odd", torch.float16)


def test_a_folder_in_the_place_of_a_file(tmp_path, whole):
    (tmp_path / "x.safetensors").mkdir()
    for reader in (open_weights, lambda path: read_lora(path, {"unet": whole["unet"]}), load_depth):
        assert not told(reader, tmp_path / "x.safetensors", tmp_path)
    shutil.rmtree(tmp_path / "x.safetensors")
