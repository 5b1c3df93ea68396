"""The live widget and what is behind it."""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={"widget": ["LiveTranslator"]})
