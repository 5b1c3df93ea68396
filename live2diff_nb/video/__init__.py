"""Frames in and out: files, folders, cameras, arrays."""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"sources": ["demo_clip", "open_source"], "sinks": ["open_sink"]})
av = lazy_loader.load("av")     # PyAV: slow to import, and only films need it
