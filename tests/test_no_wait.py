"""A frame on a GPU, without one: fake CUDA tensors pass through the whole frame, and whatever would make the host wait
for the GPU raises. Streams are played by a notebook that writes down who waits for whom."""
from collections import deque
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from helpers import moving_clip
from live2diff_nb.engine.capture import Lane, to_host
from live2diff_nb.gpu import random_pipe
from live2diff_nb.pipeline import cuts
from live2diff_nb.pipeline.live2diff import Live2Diff
from live2diff_nb.pipeline.session import Session

READS = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "item")    # a value is looked at, on the host
OURS = "live2diff_nb"


class NoWait(TorchDispatchMode):
    "Raises where the host would wait for a GPU: a value read, a copy that is not asked for in passing, or not pinned."
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name, kwargs = function.overloadpacket.__name__, kwargs or {}
        if name in READS: raise AssertionError(f"{name}: the host waits here")
        masks = args[1] if name.startswith("index") and isinstance(args[1], (list, tuple)) else ()
        if any(torch.is_tensor(x) and x.dtype == torch.bool for x in masks): raise AssertionError("mask: waits here")
        out = function(*args, **kwargs)
        if name in ("_to_copy", "to", "copy_"):
            ends = (args[1], args[0]) if name == "copy_" else (args[0], out)
            quick = kwargs.get("non_blocking") or any(x is True for x in args[2:])
            host = next((x for x in ends if x.device.type == "cpu"), None)
            if ends[0].device.type != ends[1].device.type and not (quick and getattr(host, "pinned", False)):
                raise AssertionError(f"{name} from {ends[0].device} to {ends[1].device}: the host waits here")
        return out


def fake(x, seen):
    "The thing, with a fake CUDA tensor for every tensor of it and of what it is made of."
    if isinstance(x, torch.Tensor):
        new = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="cuda")
        return torch.nn.Parameter(new, requires_grad=False) if isinstance(x, torch.nn.Parameter) else new
    if isinstance(x, torch.device): return torch.device("cuda")
    if isinstance(x, tuple): return type(x)(*(fake(y, seen) for y in x)) if hasattr(x, "_fields") else tuple(
        fake(y, seen) for y in x)
    made_of = isinstance(x, torch.nn.Module | SimpleNamespace) or type(x).__module__.startswith(OURS)
    inner = vars(x) if made_of else x
    if type(inner) not in (dict, list, deque) or id(inner) in seen: return x
    seen.add(id(inner))
    items = inner.items() if isinstance(inner, dict) else enumerate(inner)
    for key, value in list(items): inner[key] = fake(value, seen)
    return x


class Notebook:
    "In the place of `torch.cuda`'s streams and events."
    def __init__(self): self.lines, self.now = [], self.named("main")

    def named(self, name):
        stream = type("Stream", (), {})()
        stream.name = name
        stream.wait_stream = lambda other: self.lines.append((name, "waits for", other.name))
        return stream

    @contextmanager
    def inside(self, stream):
        before, self.now = self.now, stream
        yield
        self.now = before

    def event(self, **_):
        event = type("Event", (), {})()
        event.record, event.query = lambda: self.lines.append((self.now.name, "event")), lambda: False
        event.synchronize = lambda: self.lines.append(("host", "waits"))
        return event


@pytest.fixture
def notes(monkeypatch):
    notes = Notebook()
    for name, value in dict(Stream=lambda *_: notes.named("lane"), stream=notes.inside, Event=notes.event,
                            current_stream=lambda: notes.now).items(): monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda x, s: notes.lines.append((s.name, "reads")))
    def pinned(x):
        x.pinned = True
        return x
    monkeypatch.setattr(torch.Tensor, "pin_memory", pinned)
    for name in ("randn", "empty"):
        def new(*args, plain=getattr(torch, name), pin_memory=False, **kwargs):
            return pinned(plain(*args, **kwargs)) if pin_memory else plain(*args, **kwargs)
        monkeypatch.setattr(torch, name, new)
    def thumbnail(picture):                                 # in the fake mode its tensor on the CPU would be a fake one
        assert isinstance(picture, np.ndarray), "a cut is looked for on the GPU: the host waits here"
        return np.zeros((3, 32, 32))
    monkeypatch.setattr(cuts, "thumbnail", thumbnail)
    return notes


@contextmanager
def on_fake_gpu(overlap=False):
    "A session in mid-stream whose tensors have all become fake ones on a GPU; and frames to come."
    clip = moving_clip(16)
    pipe = random_pipe("cpu", torch.float32, 64, 64, 2, full=False)
    with torch.no_grad():
        session = Session(pipe, 0, False, "cut", on_cut="rewarm")
        for frame in clip[:11]: session.take(pipe.to_pictures([frame]), frame=frame)
        with FakeTensorMode(allow_non_fake_inputs=True):
            for part in (session, pipe.models): fake(part, set())
            pipe.models.times.on_gpu = True
            if overlap: pipe.models.lane = Lane("cuda")
            yield pipe.models, session, clip[11:]


def one_frame(models, session, frame):
    "As `run_session` has it, up to the fetching of the result."
    with NoWait():
        latents = session.take(models.to_pictures([frame]), frame=frame)
        return [models.begin_decode(x0) for x0 in latents]


@pytest.mark.parametrize("overlap", [False, True])
def test_no_wait_in_a_frame_but_for_its_result(notes, overlap):
    with on_fake_gpu(overlap) as (models, session, clip):
        for frame in clip:
            fetch, = one_frame(models, session, frame)
        assert ("host", "waits") not in notes.lines
        with pytest.raises(RuntimeError): fetch()                               # a fake tensor has no numbers to fetch
        assert notes.lines.count(("host", "waits")) == 1


WAITS = {
    "item": lambda x: x.sum().item(), "tolist": lambda x: x.flatten()[:2].tolist(), "bool": lambda x: bool(x.sum() > 0),
    "cpu": lambda x: x.cpu(), "to": lambda x: x.to("cpu"), "not pinned": lambda x: x.to("cpu", non_blocking=True),
    "mask": lambda x: x[x > 0], "nonzero": lambda x: x.nonzero(), "if": lambda x: torch.equal(x, x + 1),
    "copy": lambda x: x.copy_(torch.zeros(x.shape)), "upload": lambda x: torch.zeros(1).to(x.device)}


def test_what_waits_is_caught(notes):
    "In the same frame, with a step that does it."
    with on_fake_gpu() as (models, session, clip):
        step = session.engine.runner
        for wait in WAITS.values():
            session.engine.runner = lambda x, *rest: (wait(x), step(x, *rest))[1]
            with pytest.raises(AssertionError, match="waits here"): one_frame(models, session, clip[0])


def test_the_lane_waits_for_what_others_write_and_not_for_the_last_frame(notes):
    """Upload and encoding of a frame wait for nothing that the present stream still has to do; the present stream waits
    for both, and the allocator is told."""
    with on_fake_gpu(overlap=True) as (models, session, clip):
        one_frame(models, session, clip[0])
        assert ("lane", "waits for", "main") not in notes.lines
        assert notes.lines.count(("main", "waits for", "lane")) == 2 and notes.lines.count(("main", "reads")) == 3
        other = torch.zeros(1, 3, 64, 64, device="cuda")                       # not from the lane
        models.encode(other, session.scale)
        assert notes.lines.count(("lane", "waits for", "main")) == 1
        Session(type("Pipe", (), dict(models=models, settings=session.base)), 0, False, "cut")      # weights
        assert notes.lines.count(("lane", "waits for", "main")) == 2


def test_a_copy_to_the_host_is_pinned_and_waited_for_when_it_is_fetched(notes):
    with FakeTensorMode(), NoWait(): fetch = to_host(torch.zeros(3, device="cuda"))
    assert notes.lines == [("main", "event")]
    with pytest.raises(RuntimeError): fetch()
    assert notes.lines[-1] == ("host", "waits")


def test_overlapped_frames_are_the_same_one_later():
    "On a CPU: the same pictures in the same order, each when one more frame has been read; no one is left behind."
    clip, got = moving_clip(14), {}
    for overlap in (False, True):
        pipe = Live2Diff.from_pretrained("tiny", device="cpu", graphs=False, height=64, width=64, overlap=overlap)
        fed, got[overlap] = [], []
        def source():
            for frame in clip:
                fed.append(1)
                yield frame
        for out in pipe.stream(source(), prompt="etching"): got[overlap].append((len(fed), out))
    assert all((a[1] == b[1]).all() for a, b in zip(got[False], got[True])) and len(got[True]) == len(clip)
    late = [b[0] - a[0] for a, b in zip(got[False], got[True])]
    assert set(late[8:-3]) == {1} and late[-1] == 0
