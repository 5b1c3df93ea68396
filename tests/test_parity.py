"""Our engine against outputs recorded from the official implementation (tests/golden, see its meta.json). On a GPU with
LIVE2DIFF_DEVICE=cuda, as `bench gpu` calls it."""
import json
import os
from pathlib import Path

import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file

from live2diff_nb.engine.lcm import make_scheduler, pick_timesteps
from live2diff_nb.engine.stream import InFlight, StreamDenoiser
from live2diff_nb.engine.kvcache import own_column
from live2diff_nb.engine.temporal import attend_ring_readable
from live2diff_nb.weights.official import load_official

GOLDEN = Path(__file__).parent / "golden"
META = json.loads((GOLDEN / "meta.json").read_text())
CASES = list(META["cases"])
DEVICE = os.environ.get("LIVE2DIFF_DEVICE", "cpu")


def read(name):
    return {key: value.float().to(DEVICE) for key, value in load_file(GOLDEN / f"{name}.safetensors").items()}


@pytest.fixture(scope="module")
def unet():
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    unet = load_official(read("sd15_unet"), read("live2diff"), **META["unet_config"], motion=META["motion"])
    return unet.to(DEVICE)


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def timesteps(case):
    by_index = case["t_index_list_arg"]
    if by_index is not None:
        return pick_timesteps(make_scheduler(), t_index_list=by_index, num_inference_steps=case["num_inference_steps"])
    return pick_timesteps(
        make_scheduler(), steps=None, strength=case["strength_arg"], num_inference_steps=case["num_inference_steps"]
    )


def engine_for(unet, case, kind=StreamDenoiser):
    return kind(unet, timesteps(case), window=case["window_size"], warmup=case["warmup_frames"])


def replay(engine, inputs):
    """Run a recording: warmup result, streamed results by engine step (None while filling), caches by number of
    streamed frames."""
    inject = inputs.get("noise_warmup_inject")
    inject = inject if inject is None else rearrange(inject, "t 1 c f h w -> t f c h w")
    warm = engine.warm_up(inputs["latents_warmup"], inputs["depth_warmup"], inputs["prompt_embeds"],
                          noise=dict(encode=inputs["noise_warmup_encode"], inject=inject))
    streamed, caches = [], {0: [engine.cache[0], engine.cache[len(engine.cache) - 1]]}
    for s, latent in enumerate(inputs["latents_stream"]):
        inject = (
            rearrange(inputs["noise_stream_inject"][s], "t c 1 h w -> t 1 c h w")
            if "noise_stream_inject" in inputs
            else None
        )
        noise = dict(encode=inputs["noise_stream_encode"][s], inject=inject)
        streamed.append(
            engine.step(
                latent.reshape(1, *latent.shape[-3:]),
                inputs["depth_stream"][s].reshape(1, *latent.shape[-3:]),
                noise=noise,
            )
        )
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


class RecordedStates:
    "In place of our ring table: the slots, positions and masks the official code had at each step."

    def __init__(self, outputs):
        self.states = zip(outputs["update_idx"].long(), outputs["pe_idx"].long(), outputs["attn_bias"])

    def rows(self, numbers):
        slot, position, bias = next(self.states)
        return slot, *own_column(slot, position, bias)


class OfficialStart(StreamDenoiser):
    "The official start: rows that wait for their first frame run on all-zero latents, and keep what comes of it."

    def warm_up(self, latents, *args, **kwargs):
        warm = super().warm_up(latents, *args, **kwargs)
        zeros = torch.zeros_like(latents[:1])
        self.flight = [InFlight(0, zeros, self.unet.encode_depth(zeros), None)] * self.rows
        return warm


def test_what_the_official_start_does_wrong(unet, monkeypatch):
    """Let the idle rows write, as the official code does (its T=4), and its outputs come out, 3 to 4 % off the right
    ones."""
    # the fast form cannot hide a row from itself
    monkeypatch.setattr("live2diff_nb.engine.temporal.attend_ring", attend_ring_readable)
    case, outputs, fixed = META["cases"]["w16s8_T4"], read("w16s8_T4.outputs"), read("w16s8_T4.fixed")["x0_stream"]
    engine, official = engine_for(unet, case, OfficialStart), outputs["x0_stream"]
    engine.ring = RecordedStates(outputs)
    _, streamed, caches = replay(engine, read("w16s8_T4.inputs"))
    # the garbage of the first 3 too
    assert max(relative(ours, theirs) for ours, theirs in zip(streamed, official)) <= 1e-5
    places = torch.arange(0, 256, 32)
    for n in (3, 28):
        assert relative(caches[n][0][:, :, places], outputs[f"kv0_after_{n}"]) <= 1e-5           # every row, every slot
    off = [relative(theirs, right) for theirs, right in zip(official, fixed)][3:]
    assert min(off[:7]) > 0.03 and max(off[:7]) < 0.05 and 0.0005 < off[-1] < 0.002  # and it fades, but slowly


@pytest.mark.parametrize("name", ["w8s4_T2", "w16s8_T2_strength"])
def test_up_to_two_rows_the_official_start_is_right(unet, name, monkeypatch):
    "So one rule, ours, serves every recorded case."
    monkeypatch.setattr("live2diff_nb.engine.temporal.attend_ring", attend_ring_readable)
    case, outputs = META["cases"][name], read(f"{name}.outputs")
    engine = engine_for(unet, case, OfficialStart)
    engine.ring = RecordedStates(outputs)
    _, streamed, _ = replay(engine, read(f"{name}.inputs"))
    assert max(relative(ours, theirs) for ours, theirs in zip(streamed, outputs["x0_stream"])) <= 1e-5


@pytest.mark.parametrize("name", ["w8s4_T2", "w16s8_T4"])
def test_parity_of_the_sequential_twin(unet, name):
    "One row a call; a frame's re-noising is spread over the recording, which follows the rows."
    case, inputs = META["cases"][name], read(f"{name}.inputs")
    engine, rows, outputs = engine_for(unet, case), case["T"], read(f"{name}.outputs")
    expected = read(f"{name}.fixed")["x0_stream"] if rows > 2 else outputs["x0_stream"]
    engine.warm_up(
        inputs["latents_warmup"],
        inputs["depth_warmup"],
        inputs["prompt_embeds"],
        noise=dict(
            encode=inputs["noise_warmup_encode"],
            inject=rearrange(inputs["noise_warmup_inject"], "t 1 c f h w -> t f c h w"),
        ),
    )
    for s in range(len(expected) - rows + 1):
        # (T-1, 1, 4, h, w)
        inject = torch.stack([inputs["noise_stream_inject"][s + k, k].transpose(0, 1) for k in range(rows - 1)])
        noise = dict(encode=inputs["noise_stream_encode"][s], inject=inject)
        x0 = engine.step_sequential(inputs["latents_stream"][s][None], inputs["depth_stream"][s][None], noise=noise)
        assert relative(x0, expected[s + rows - 1]) <= 1e-5, f"frame {s}"
