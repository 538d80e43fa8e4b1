# Each target sets up what it needs: the environment is built once into .venv from the hashed lock.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PATH := $(CURDIR)/.venv/bin:$(PATH)
export PATH
# Compiled modules are kept: without them every notebook spends 10 s on importing its libraries.
unexport PYTHONDONTWRITEBYTECODE
CORES ?= all
# The uv of the machine if it has one, otherwise one installed into .uv from the lock's hash.
UV ?= $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
# --logger steps is workflow/snakemake_logger_plugin_steps: a line a step, and no internals.
SNAKEMAKE = @PYTHONPATH=workflow snakemake --snakefile workflow/Snakefile --cores $(CORES) \
    --rerun-incomplete --keep-going --logger steps
BOOK = @echo "The book: results/$(1)/book/index.html"

help:  ## say what each target does
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-8s %s\n", $$1, $$2}'

demo: .venv/.ready  ## simulated .oir files -> six notebooks -> the book in results/demo
	$(SNAKEMAKE) --configfile workflow/config/demo.yaml
	$(call BOOK,demo)

test: .venv/.ready  ## every test (set HSC_TEST_DATA to a folder of real images to test on those too)
	OMP_NUM_THREADS=1 pytest --numprocesses logical --maxprocesses 4

lab: .venv/.ready  ## open the notebooks in JupyterLab
	jupyter lab notebooks

book: .venv/.ready  ## build the demo's book again (runs whatever of the demo is missing)
	$(SNAKEMAKE) --configfile workflow/config/demo.yaml --forcerun book
	$(call BOOK,demo)

paper: .venv/.ready  ## the paper's settings on the paper's data in data/raw: every backbone, both levels
	$(SNAKEMAKE) --configfile workflow/config/paper.yaml
	$(call BOOK,paper)

sweep: .venv/.ready  ## add to the demo's study: three seeds, every subset of slices, tables with a spread
	$(SNAKEMAKE) --configfile workflow/config/sweep.yaml
	$(call BOOK,demo)

notebooks: .venv/.ready  ## store the demo's outputs in notebooks/ (runs whatever of the demo is missing)
	$(SNAKEMAKE) --configfile workflow/config/demo.yaml --forcerun store -- store

unlock: .venv/.ready  ## release the lock that a killed run or a power loss left; then go on
	$(SNAKEMAKE) --configfile workflow/config/demo.yaml --unlock

lint: .venv/.ready  ## check style, notebooks included
	ruff format --check .
	ruff check .

lock: .venv/.ready  ## pin pyproject.toml's dependencies anew in requirements.txt
	uv pip compile pyproject.toml --extra test --universal --python-version 3.12 --upgrade --quiet \
	    --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --output-file requirements.txt

clean:  ## delete the demo's results and caches (keeps .venv and data)
	rm -rf results/demo .snakemake .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

.venv/.ready: requirements.txt pyproject.toml .python-version | $(UV)
	$(UV) venv --quiet --allow-existing .venv
	$(UV) pip sync --quiet --require-hashes requirements.txt
	$(UV) pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

.uv/bin/uv:
	python3 -m venv .uv
	awk '/^uv==/ {pin = 1} pin {print} pin && !/\\$$/ {exit}' requirements.txt > .uv/requirements.txt
	.uv/bin/python -m pip install --quiet --require-hashes -r .uv/requirements.txt

.PHONY: help demo test lab book paper sweep notebooks unlock lint lock clean
