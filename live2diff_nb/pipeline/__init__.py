"""Frames in, frames out: the pipeline and its settings."""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={"live2diff": ["Live2Diff"]})
