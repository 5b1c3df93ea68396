"""Our engine against outputs recorded from the official implementation (tests/golden, see its meta.json)."""
import json
from pathlib import Path

import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file

from live2diff_nb.lcm import make_scheduler, pick_timesteps
from live2diff_nb.stream import StreamDenoiser
from live2diff_nb.weights import load_official

GOLDEN = Path(__file__).parent / "golden"
META = json.loads((GOLDEN / "meta.json").read_text())
CASES = list(META["cases"])


def read(name):
    return {key: value.float() for key, value in load_file(GOLDEN / f"{name}.safetensors").items()}


@pytest.fixture(scope="module")
def unet():
    return load_official(read("sd15_unet"), read("live2diff"), **META["unet_config"], motion=META["motion"])


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def timesteps(case):
    by_index = case["t_index_list_arg"]
    if by_index is not None:
        return pick_timesteps(make_scheduler(), t_index_list=by_index, num_inference_steps=case["num_inference_steps"])
    return pick_timesteps(make_scheduler(), steps=None, strength=case["strength_arg"], num_inference_steps=case["num_inference_steps"])


def engine_for(unet, case, kind=StreamDenoiser):
    return kind(unet, timesteps(case), window=case["window_size"], warmup=case["warmup_frames"])


def replay(engine, inputs):
    "Run a recording: warmup result, streamed results by engine step (None while filling), caches by number of streamed frames."
    inject = inputs.get("noise_warmup_inject")
    inject = inject if inject is None else rearrange(inject, "t 1 c f h w -> t f c h w")
    warm = engine.warm_up(inputs["latents_warmup"], inputs["depth_warmup"], inputs["prompt_embeds"],
                          noise=dict(encode=inputs["noise_warmup_encode"], inject=inject))
    streamed, caches = [], {0: [engine.cache[0], engine.cache[len(engine.cache) - 1]]}
    for s, latent in enumerate(inputs["latents_stream"]):
        inject = rearrange(inputs["noise_stream_inject"][s], "t c 1 h w -> t 1 c h w") if "noise_stream_inject" in inputs else None
        noise = dict(encode=inputs["noise_stream_encode"][s], inject=inject)
        streamed.append(engine.step(latent.reshape(1, *latent.shape[-3:]), inputs["depth_stream"][s].reshape(1, *latent.shape[-3:]), noise=noise))
        caches[s + 1] = [engine.cache[0], engine.cache[len(engine.cache) - 1]]
    return warm, streamed, caches


@pytest.mark.parametrize("name", CASES)
def test_same_timesteps_and_scalings(unet, name):
    case = META["cases"][name]
    engine = engine_for(unet, case)
    assert engine.timesteps.tolist() == case["sub_timesteps"]
    for ours, theirs in zip(engine.scalings, ("alpha_prod_t_sqrt", "beta_prod_t_sqrt", "c_skip", "c_out")):
        assert torch.allclose(ours.flatten(), torch.tensor(case[theirs]), rtol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_parity(unet, name):
    case = META["cases"][name]
    engine, outputs = engine_for(unet, case), read(f"{name}.outputs")
    warm, streamed, caches = replay(engine, read(f"{name}.inputs"))
    rows = engine.rows
    expected = read(f"{name}.fixed")["x0_stream"] if rows > 2 else outputs["x0_stream"]
    assert relative(warm, outputs["warmup_x0"]) <= 1e-5
    assert all(x is None for x in streamed[: rows - 1]) and len(streamed) == len(expected)
    for s in range(rows - 1, len(streamed)):
        assert relative(streamed[s], expected[s]) <= 1e-5, f"step {s}"
    compared = compare_caches(case, caches, outputs, rows)
    assert compared >= 4


def compare_caches(case, caches, outputs, rows):
    "Compare every recorded row that holds only real frames; the official start leaves garbage in rows that still wait."
    compared, window, warmup = 0, case["window_size"], case["warmup_frames"]
    places = torch.arange(0, caches[0][0].shape[2], 32)
    for key, recorded in outputs.items():
        if not key.startswith("kv"):
            continue
        which, n = (0 if key.startswith("kv0") else 1), int(key.rsplit("_", 1)[1])
        ours = caches[n][which][:, :, places]
        for row in range(rows if rows <= 2 else 1):
            filled = warmup + max(0, min(n - row, window - warmup))
            assert relative(ours[row, :, :, :filled], recorded[row, :, :, :filled]) <= 1e-5, (key, row)
            compared += 1
    return compared


class OfficialStart(StreamDenoiser):
    "The official start: rows 2 and up commit what they make of all-zero latents, and count it as frames (golden NOTES, B1)."

    def warm_up(self, *args, **kwargs):
        self.official = 0
        return super().warm_up(*args, **kwargs)

    @torch.inference_mode()
    def step(self, latent, depth, noise=None):
        s, self.official = self.official, self.official + 1
        frame = self._enter(latent, depth, noise)
        if s == 0:
            idle = frame._replace(latent=torch.zeros_like(latent), depth=self.unet.encode_depth(torch.zeros_like(latent)))
            self.flight = [None] + [idle] * (self.rows - 1)
        self.flight[0] = frame
        # rows >= 1 believe that they have written s frames: that is right for row 1 only
        self.flight = [f._replace(number=s if k == 0 else max(s - 1, 0)) for k, f in enumerate(self.flight)]
        if s == 0:                                     # masked garbage, overwritten later
            keep = [layer.clone() for layer in self.cache.layers]
        x0 = self._advance(noise["inject"])
        if s == 0:
            for layer, old in zip(self.cache.layers, keep):
                layer[:, 1:] = old[:, 1:]
        return x0


def test_what_the_official_start_does_wrong(unet):
    "With T=4 the official outputs are those of an engine whose idle rows write: several percent off, fading slowly."
    case = META["cases"]["w16s8_T4"]
    inputs, official, fixed = read("w16s8_T4.inputs"), read("w16s8_T4.outputs")["x0_stream"], read("w16s8_T4.fixed")["x0_stream"]
    off = [relative(official[s], fixed[s]) for s in range(3, len(fixed))]
    assert 0.02 < max(off[:7]) < 0.06 and 0 < off[-1] < 0.01
    _, streamed, _ = replay(engine_for(unet, case, OfficialStart), inputs)
    imitated = [relative(streamed[s], official[s]) for s in range(4, len(official))]
    print(imitated[:5])
    assert max(imitated) < 1e-3, imitated
