"""How near each pixel is: the small network, MiDaS, models of the hub."""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={"small": ["TinyDepth", "fold_norms"]})
