"""Live video diffusion you can read, run and extend: Live2Diff as a Jupyter-first library."""

__version__ = "0.1.0"


def __getattr__(name):
    "`Live2Diff`, imported on first use: the command line answers `--help` without loading torch."
    if name == "Live2Diff":
        from live2diff_nb.pipeline import Live2Diff
        return Live2Diff
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
