"""Interactive figures: on a page with saved data, or connected to a kernel."""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "figure": ["Figure", "mask_figure"], "engine": ["pipeline_figure", "record_ring", "ring_figure"],
    "live": ["ages_figure", "attention_figure"], "depth": ["depth_figure"],
    "pictures": ["noise_figure", "parts_figure", "training_figure"]})
