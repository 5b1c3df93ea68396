"Metrics against cases with known answers."
import cv2
import numpy as np
import pytest
import torch

from live2diff_nb.data.teachers import opencv_cartoon
from live2diff_nb.depth.estimator import DepthEstimator
from live2diff_nb.judge.metrics import (RaftFlow, best_flow, clip_score, depth_mse, dis_flow, latency_summary,
                                        load_clip, motion, psnr, seen_before, sharpness, style_distance,
                                        style_statistics, to_float, warp, warp_error)
from live2diff_nb.data.worlds import Motion, RenderedClips, exact_motion
from live2diff_nb.depth.small import load_tiny_depth
from live2diff_nb.judge.sanity import (LEAST_DETAIL, blurred, detail_energy, detail_ratio, follow_share, frozen,
                                       marks_of, own_distance, ranked)
from live2diff_nb.judge.slices import flicker, line_over_time, slice_picture
from live2diff_nb.judge.splits import TEST, VALIDATION, davis_clips, label_of, open_list, read_captions
from live2diff_nb.judge.witness import exact_error, load_witness, world_batch
from live2diff_nb.training.depth import scene_batch


@pytest.fixture
def rng(): return np.random.default_rng(0)


def texture(rng, height=120, width=140):
    soft = cv2.GaussianBlur(rng.integers(0, 256, (height, width, 3), np.uint8), (0, 0), 2)
    return cv2.normalize(soft, None, 0, 255, cv2.NORM_MINMAX)


def still(count, height=40, width=50):
    return [Motion(np.zeros((height, width, 2), np.float32), np.ones((height, width), bool))] * count


def test_bytes_do_not_wrap_around():
    "3 - 4 is -1, not 255: one step between frames costs the same up and down, in every metric that subtracts."
    for low, high in ((3, 4), (0, 1), (254, 255)):
        frames = [np.full((40, 50, 3), v, np.uint8) for v in (low, high, low)]
        assert warp_error(frames, still(2)) == pytest.approx(1 / 255 ** 2, rel=1e-3)
        a_step = pytest.approx(20 * np.log10(255), abs=1e-3)
        assert psnr(frames[:1], frames[1:2]) == psnr(frames[1:2], frames[:1]) == a_step
    step = np.zeros((40, 50, 3), np.uint8)
    step[:, 25:] = 1
    assert sharpness([step]) == pytest.approx(1 / 255 / 50, rel=1e-3)  # two columns of half a step each
    assert sharpness([step]) == pytest.approx(sharpness([step[:, ::-1]]))


def test_equal_frames(rng):
    clip = [texture(rng)] * 4
    assert warp_error(clip, still(3, 120, 140)) == 0 and warp_error(clip, motion(clip, dis_flow)) < 1e-5
    assert psnr(clip, clip) > 300 and style_distance(clip, clip) == 0


def test_one_step_of_noise(rng):
    clip = rng.integers(1, 255, (8, 40, 50, 3), np.uint8)
    clip[1:] = clip[0]
    noise = rng.choice([-1, 1], clip.shape)
    noisy = (clip + noise).astype(np.uint8)
    expected = np.mean((np.diff(noise, axis=0) / 255.0) ** 2)                              # about 2 / 255^2
    assert warp_error(noisy, still(7)) == pytest.approx(expected, rel=1e-3)
    assert psnr(clip, noisy) == pytest.approx(20 * np.log10(255), abs=1e-3)


@pytest.mark.parametrize("step", ((3, 2), (-4, 1), (0, -3)))
def test_a_known_shift(rng, step):
    big, (dx, dy) = texture(rng), step
    a, b = big[10:90, 10:110], big[10 - dy:90 - dy, 10 - dx:110 - dx]  # things move right by dx, down by dy
    assert np.abs(dis_flow(a.copy(), b.copy())[12:-12, 12:-12].mean((0, 1)) - step).max() < 0.1
    back = np.zeros((80, 100, 2), np.float32) - step
    exact = [Motion(back, seen_before(back, -back))]
    assert exact[0].seen.mean() == pytest.approx((100 - abs(dx)) * (80 - abs(dy)) / 8000)
    assert warp_error([a, b], exact) < 1e-9
    guessed = motion([a.copy(), b.copy()], dis_flow)
    true, near, none = (warp_error([a, b], moves) for moves in (exact, guessed, still(1, 80, 100)))
    assert true < near < 0.05 * none
    wrong = [Motion(-back, exact[0].seen)]
    assert warp_error([a, b], wrong) > warp_error([a, b], still(1, 80, 100))               # the sign matters


def test_the_input_moves_and_the_output_is_judged(rng):
    big = texture(rng)
    inputs = [big[10:90, 10 + k:110 + k].copy() for k in range(4)]
    moves = motion(inputs, dis_flow)
    frozen = [inputs[0]] * 4                                                               # steady, but does not follow
    assert warp_error([255 - f for f in inputs], moves) < 0.1 * warp_error(frozen, moves)


def test_hidden_pixels_do_not_count(rng):
    a = texture(rng, 40, 50)
    b = a.copy()
    b[:, :20] = 0
    seen = np.ones((40, 50), bool)
    seen[:, :20] = False
    assert warp_error([a, b], [Motion(still(1)[0].back, seen)]) == 0 < warp_error([a, b], still(1))
    assert warp_error([a, b], [Motion(still(1)[0].back, ~seen & seen)]) == 0               # nothing to judge


def test_between_pixels_is_bilinear():
    ramp = np.repeat(np.arange(50, dtype=np.float32)[None, :, None], 40, 0)
    half = warp(ramp, np.full((40, 50, 2), 0.5, np.float32) * [1, 0])
    assert np.allclose(half[:, :-1].squeeze(), ramp[:, :-1].squeeze() + 0.5, atol=0.04)


class Bright(DepthEstimator):
    "Bright is near."
    def inverse_depth(self, x): return x.mean(1)


def test_depth_mse_of_known_maps():
    ramp = np.repeat(np.arange(64, dtype=np.uint8)[None, None, :, None], 64, 1).repeat(3, -1).repeat(2, 0)
    assert depth_mse(ramp, ramp * 3 + 10, Bright()) < 1e-9  # scale and offset are not structure
    u = np.linspace(0, 1, 64)
    assert depth_mse(ramp, ramp[:, :, ::-1], Bright()) == pytest.approx(np.mean((2 * u - 1) ** 2), rel=1e-3)
    jump = ramp.copy()
    jump[1] += 63
    assert depth_mse(ramp, jump, Bright()) > 0.05  # one range for the sequence: a jump counts
    with pytest.raises(ValueError, match="must match"): depth_mse(ramp, ramp[:1], Bright())


def test_sharpness_falls_with_blur(rng):
    clip = [texture(rng)]
    values = [sharpness(clip)] + [sharpness([cv2.GaussianBlur(clip[0], (0, 0), s)]) for s in (1, 2, 4, 8)]
    assert values == sorted(values, reverse=True)
    slope = np.broadcast_to(np.arange(50, dtype=np.uint8)[None, :, None] * 3, (40, 50, 3))
    assert sharpness([slope]) == pytest.approx(3 / 255)


def test_style_does_not_ask_where_things_are(rng):
    "Rolled or mirrored, a texture is the same style; painted it is another one, and more painting is further away."
    a = texture(rng, 128, 128)
    moved, painted = np.roll(a, (30, 50), (0, 1)), opencv_cartoon(a)
    assert style_distance([a], [moved]) < 0.15 * style_distance([a], [painted])               # rolling makes two seams
    part = [style_distance([a], [cv2.addWeighted(a, 1 - w, painted, w, 0)]) for w in (0.25, 0.5, 1)]
    assert part == sorted(part)
    assert style_distance([a], [painted]) == style_distance(style_statistics([painted]), [a])


def test_latency():
    told = latency_summary([0.05] * 98 + [0.55, 1.05])
    assert told["median"] == pytest.approx(0.05) and told["mean"] == pytest.approx(0.065)
    assert told["fps"] == pytest.approx(1 / 0.065)
    assert told["worst"] == pytest.approx(1.05) and told["p95"] == pytest.approx(0.05)
    with pytest.raises(ValueError, match="no times"): latency_summary([])


def test_what_is_not_a_clip_is_refused(rng):
    clip = rng.integers(0, 256, (3, 40, 50, 3), np.uint8)
    for wrong, say in ((clip / 255, "uint8"), (clip[0], "uint8"), ([], "at least one"),
                       ([clip[0], clip[0, :20]], "one size")):
        with pytest.raises(ValueError, match=say): to_float(wrong)
    with pytest.raises(ValueError, match="3 frames need 2"): warp_error(clip, still(3))
    with pytest.raises(ValueError, match="resize"): warp_error(clip, still(2, 20, 20))
    with pytest.raises(ValueError, match="as many frames"): psnr(clip, clip[:2])


def test_raft_and_clip_say_what_is_missing_and_run_where_they_are(tmp_path, monkeypatch, rng):
    from torchvision.models.optical_flow import raft_small
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert best_flow() is dis_flow
    with pytest.raises(FileNotFoundError, match="no RAFT weights.*raft_small_C_T_V2"): RaftFlow()
    (tmp_path / "checkpoints").mkdir()
    torch.manual_seed(0)
    torch.save(raft_small().state_dict(), tmp_path / "checkpoints" / RaftFlow.names["raft_small"])
    flow = best_flow()  # random weights: only its shape can be known
    picture = texture(rng, 130, 141)
    assert isinstance(flow, RaftFlow) and flow(picture, picture).shape == (130, 141, 2)

    with pytest.raises(FileNotFoundError, match="no CLIP weights"): load_clip(str(tmp_path / "nothing"))
    small = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    eye = small | dict(image_size=32, patch_size=8)
    model = CLIPModel(CLIPConfig(text_config=small, vision_config=eye, projection_dim=16))
    reader = CLIPImageProcessor(size=dict(shortest_edge=32), crop_size=dict(height=32, width=32))
    for part in (model, reader): part.save_pretrained(tmp_path / "clip")
    model, processor = load_clip(str(tmp_path / "clip"))
    assert clip_score([picture] * 3, model, processor) == pytest.approx(100, abs=1e-3)
    assert clip_score([picture, 255 - picture], model, processor) < 99.99


def test_a_hidden_half_does_not_thin_the_warp_error():
    "The mean is over what is seen: one grey step everywhere is the same error, whether all or half is seen."
    a, b = (np.full((8, 8, 3), value, np.uint8) for value in (100, 101))
    half = still(1, 8, 8)[0]._replace(seen=np.arange(64).reshape(8, 8) % 2 == 0)
    for moves in ([half], still(1, 8, 8)): assert warp_error([a, b], moves) == pytest.approx(1 / 255 ** 2)


# figures that cannot be fooled --------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def world(): return RenderedClips(frames=10, size=64, seed=3)[1]


def test_the_absolute_error_of_one_step_of_noise(rng):
    clip = rng.integers(1, 255, (8, 40, 50, 3), np.uint8)
    clip[1:] = clip[0]
    noise = rng.choice([-1, 1], clip.shape)
    noisy = (clip + noise).astype(np.uint8)
    assert warp_error(noisy, still(7), absolute=True) == pytest.approx(np.abs(np.diff(noise, axis=0)).mean() / 255)
    assert warp_error(clip, still(7), absolute=True) == 0
    assert warp_error(noisy, still(7)) == pytest.approx(np.mean(np.diff(noise, axis=0) ** 2) / 255 ** 2, rel=1e-3)


def test_the_exact_flow_of_a_rendered_clip_explains_it(world):
    film, moves = world["photo"], exact_motion(world)
    at_rest = [move._replace(back=0 * move.back, seen=move.seen) for move in moves]
    wrong = [move._replace(back=-move.back) for move in moves]
    for absolute in (False, True):
        exact, none, away = (warp_error(film, way, absolute) for way in (moves, at_rest, wrong))
        assert exact < 0.7 * none < 0.7 * away


@pytest.mark.parametrize("copy", (lambda clip: clip, lambda clip: [frame.copy() for frame in clip]))
def test_identical_clips_have_whole_figures(world, copy):
    film = list(world["photo"])
    assert detail_ratio(copy(film), film) == follow_share(copy(film), film) == 1 and own_distance(copy(film), film) == 0


def test_detail_of_noise_waves_and_blur(rng):
    noise = rng.normal(127, 20, (4, 128, 128, 1)).round().astype(np.uint8).repeat(3, -1)
    assert detail_energy(noise) / np.var(noise / 255) == pytest.approx(1 - np.pi / 16, rel=0.03)  # outside the circle
    assert detail_energy(still_frames := [noise[0]] * 2) == pytest.approx(detail_energy(still_frames[:1]))
    ratios = [detail_ratio(blurred(noise, width), noise) for width in (0.4, 0.8, 1.6)]
    assert 1 > ratios[0] > ratios[1] > ratios[2] and np.log(ratios[2]) < np.log(LEAST_DETAIL) < 0
    assert np.log(detail_ratio(noise, blurred(noise))) > 0                                 # grain: more than there was


def test_a_shift_keeps_the_detail(rng):
    big = rng.integers(0, 256, (140, 150, 3), np.uint8)
    a, b = big[:120, :120], big[3:123, 5:125]
    assert detail_ratio([b], [a]) == pytest.approx(1, abs=0.05)


def test_a_frozen_film_follows_nothing_and_noise_does_not_matter(world, rng):
    film = list(world["photo"])
    assert abs(follow_share(frozen(film), film)) < 1e-4 and follow_share(film, frozen(film)) is None
    grain = [np.clip(frame + rng.normal(0, 15, frame.shape), 0, 255).astype(np.uint8) for frame in film]
    assert follow_share(grain, film) == pytest.approx(1, abs=0.15)
    assert own_distance(frozen(film), film) > own_distance(grain, film) / 10 > 0


def test_marks_and_ranks():
    fine, soft, stuck = dict(detail=0.95, follow=0.8), dict(detail=0.89, follow=0.8), dict(detail=1.2, follow=0.04)
    assert marks_of(fine) == [] and marks_of(dict(detail=5.0, follow=None)) == []
    assert marks_of(soft) == ["detail -11 %"] and marks_of(stuck) == ["follows 0.04"]
    rows = {name: dict(kind="method", warp=warp, **row) for name, warp, row in
            (("b", 2, fine), ("a", 1, fine), ("soft", 0.1, soft), ("stuck", 0, stuck))}
    assert ranked(rows | {"input": dict(kind="sanity", warp=0, **fine)}) == ["a", "b"]


def test_slices_and_their_number(rng):
    frames = rng.integers(0, 256, (5, 20, 170, 3), np.uint8)
    assert np.array_equal(line_over_time(frames, 3), frames[:, 3])
    lines = frames[:, 10].astype(float)
    assert flicker(frames) == pytest.approx(np.abs(np.diff(lines, axis=0)).mean(), rel=1e-4)
    assert flicker([frames[0]] * 4) == 0
    assert slice_picture({"a": frames, "b": frames}, stretch=2).shape == (2 * 5 + 34 + 8, 2 * (170 + 8), 3)


def test_the_witness_sees_depth_and_shares_nothing_with_the_net_that_paints():
    worlds, scenes = world_batch(4242, 12, 96), scene_batch(range(777_000_000, 777_000_012), 96)
    nets = load_witness(), load_tiny_depth()
    for unseen in (worlds, scenes): assert exact_error(nets[0], *unseen) < 0.75             # 1: a constant
    names, other = ({name.split(".")[0] for name, _ in net.named_parameters()} for net in nets)
    assert names == {"stem", "blocks", "head"} != other
    assert exact_error(nets[0], worlds[0], worlds[1] * 5 + 1) == pytest.approx(exact_error(nets[0], *worlds), rel=1e-3)


# the lists ----------------------------------------------------------------------------------------------------------

def test_no_clip_is_in_both_lists_and_each_has_a_label():
    place = lambda entry: (entry.source, entry.file, entry.seed, entry.number)
    assert not set(map(place, VALIDATION.values())) & set(map(place, TEST.values()))
    assert {entry.label for entry in (*VALIDATION.values(), *TEST.values())} == {"still", "moving"}
    assert sum(entry.source == "rendered" and entry.label == "moving" for entry in TEST.values()) >= 2


def test_labels_of_rendered_clips_are_their_flow():
    with pytest.warns(UserWarning, match="vtest.*opencv-doc"): clips = open_list(VALIDATION, 6, 64, "/nowhere")
    for entries in (VALIDATION, TEST):
        rendered = {name: entry for name, entry in entries.items() if entry.source == "rendered"}
        for name, clip in open_list(rendered, 6, 64).items(): assert label_of(exact_motion(clip)) == entries[name].label
    assert list(clips) == [name for name, entry in VALIDATION.items() if entry.source != "opencv-doc"]


def test_davis_and_its_captions(tmp_path, rng):
    with pytest.raises(ValueError, match="JPEGImages/480p"): davis_clips(tmp_path)
    for name in ("bear", "camel"): (tmp_path / "JPEGImages" / "480p" / name).mkdir(parents=True)
    clips = davis_clips(tmp_path)
    assert list(clips) == ["bear", "camel"]
    (tmp_path / "captions.json").write_text('{"bear": "a bear"}')
    with pytest.raises(ValueError, match="no caption for camel.*captions.json"): read_captions(tmp_path, clips)
    (tmp_path / "captions").mkdir()
    (tmp_path / "captions" / "camel.txt").write_text("a camel\n")
    assert read_captions(tmp_path, clips) == {"bear": "a bear", "camel": "a camel"}
