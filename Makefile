# Every target sets up what it needs, once; afterwards it works offline.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(shell cat pyproject.toml constraints.txt requirements-assets.txt Makefile | cksum | cut -d' ' -f1)

# Three times as fast as pip, and looks where pip was told to look. Torch comes by pip, which knows every way to say so,
# and so does the rest where uv finds no index.
UV = UV_FIND_LINKS="$$PIP_FIND_LINKS" $(BIN)/uv

# One thread a process, also where a test starts one; memory stays with a process, for new pages cost more than sums.
TEST = OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=100000000000 MALLOC_TRIM_THRESHOLD_=100000000000 $(BIN)/python -m pytest

.PHONY: setup demo test test-slow fuzz matrix matrix-row sbom wheel conda lint docs browser browser-tests pictures serve bench clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY)  ## make .venv and install everything that development needs

$(READY):
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt torch uv
	$(UV) pip install --quiet --python $(VENV) --constraint constraints.txt --editable '.[dev]' \
		|| $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(UV) pip install --quiet --python $(VENV) --no-deps --requirement requirements-assets.txt \
		|| $(BIN)/python -m pip install --quiet --no-deps --requirement requirements-assets.txt
	rm -f $(VENV)/.ready-*
	touch $@

demo: $(READY)  ## evaluate real trained GRUs by every method, against torch.nn.GRU
	$(BIN)/python -m recipes.pretrained

test: $(READY)  ## all tests, on two processes
	$(TEST) --numprocesses 2

test-slow: $(READY)  ## the tests of minutes: real networks and long problems, on two processes
	$(TEST) -m slow --numprocesses 2

fuzz: $(READY)  ## 100,000 random cases against the laws of the loop, on two processes; about an hour; goes on where it was cut off
	OMP_NUM_THREADS=1 $(BIN)/python tests/contract/fuzz --cases 100000 --processes 2

matrix: $(READY)  ## the wheel in empty environments: each Python, torch from oldest to newest, all minimum versions; an hour
	$(BIN)/python tests/matrix

# It must solve there with no more than it requires, before the tools of the tests come in.
matrix-row: $(READY)  ## a row of it: outside of the checkout, with all that the wheel requires but torch at its minimum
	$(BIN)/python tests/matrix --only "lowest of the rest" --quick --without-result

sbom: $(READY)  ## all that an installed package brings with it, with versions and licences: out/sbom.cdx.json (CycloneDX)
	$(BIN)/uv venv --quiet --clear out/sbom
	$(UV) pip install --quiet --python out/sbom --constraint constraints.txt .
	$(BIN)/uv tool run --quiet --from cyclonedx-bom==7.5.0 cyclonedx-py environment --pyproject pyproject.toml \
		--output-reproducible --output-file out/sbom.cdx.json out/sbom/bin/python
	rm -r out/sbom

wheel: $(READY)  ## a wheel that brings compiled CPU kernels along, for Linux on x86-64 without a compiler: out/wheel/*.whl
	$(BIN)/python wheels/build.py out/wheel

conda: $(READY)  ## build the conda recipe and run its tests, without conda's channels: out/conda/*.conda
	$(BIN)/uv venv --quiet --clear out/conda-tools
	$(BIN)/uv pip install --quiet --python out/conda-tools --constraint constraints.txt \
		py-rattler-build==0.73.0 pip setuptools tqdm
	out/conda-tools/bin/python conda/build.py \
		$$($(BIN)/python -c "import torch; print(torch.__path__[0] + '/..', torch.__version__)") out/conda
	rm -r out/conda-tools

lint: $(READY)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

docs: $(READY)  ## build the guide into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

browser:  ## Chromium and its driver, by Debian's packages where they are missing (asks for root)
	command -v chromedriver >/dev/null || { apt-get update -qq && apt-get install -y -qq chromium chromium-driver >/dev/null; }

browser-tests: docs browser  ## the built guide in a real browser: every page wide, narrow, light and dark; search; Play
	$(BIN)/python -m pytest -m browser tests/browser

pictures: $(READY)  ## draw the pictures of the guide, for light and for dark
	$(BIN)/python -m docs.make_pictures

serve: $(READY)  ## the guide, live
	$(BIN)/mkdocs serve

bench: $(READY)  ## every comparison on this machine's CPU or GPU, with the tables of the guide; takes an hour or two
	$(BIN)/python -m bench

clean:  ## remove what the other targets make
	rm -rf $(VENV) site out build *.egg-info .pytest_cache .ruff_cache .hypothesis .benchmarks
