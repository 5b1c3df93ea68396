"""Live video diffusion you can read, run and extend: Live2Diff as a Jupyter-first library."""

__version__ = "0.1.0"

import lazy_loader

# imported on first use: the command line answers `--help` without loading torch
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={"pipeline.live2diff": ["Live2Diff"]})
