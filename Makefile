# Each target sets up what it needs: the environment is built once into .venv from the hashed lock.
.DEFAULT_GOAL := help
SHELL := /bin/bash
# What was said to make itself: the environment may hold a NAME of its own, as that of WSL does.
GIVEN = $(and $(filter command,$(origin $(1))),$(strip $($(1))))
# ACTIVE=1 takes the environment that is active, conda's or Binder's, instead of .venv.
READY = active
ifeq ($(filter-out 0,$(call GIVEN,ACTIVE)),)
READY = .venv/.ready
PATH := $(CURDIR)/.venv/bin:$(PATH)
endif
export PATH
# PyTorch's build in .venv: the lock's, or the one that TORCH= once asked for, such as cpu.
TORCH_THERE := $(shell cat .venv/.torch 2>/dev/null || echo lock)
TORCH_BUILD := $(or $(call GIVEN,TORCH),$(TORCH_THERE))
TORCH_NAMES = torch|torchvision
TORCH_AND_CUDA = $(TORCH_NAMES)|triton|nvidia-[^=]*|cuda-[^=]*
# Compiled modules are kept: without them every notebook spends 10 s on importing its libraries.
unexport PYTHONDONTWRITEBYTECODE
CORES ?= all
# Runs that need a GPU, at most so many at a time; one where there is none, to be told so.
GPUS ?= $(shell if [ -n "$$CUDA_VISIBLE_DEVICES" ]; then echo "$$CUDA_VISIBLE_DEVICES" | tr , '\n' | grep -c .; \
    else nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU ' || echo 1; fi)
# The uv of the machine if it has one, otherwise one installed into .uv from the lock's hash.
UV ?= $(if $(shell command -v uv 2>/dev/null),uv,.uv/bin/uv)
# Caches and Jupyter's notes go beside the project where the home cannot be written.
ifneq ($(shell test -w "$$HOME" -a -x "$$HOME" && echo yes),yes)
export HOME := $(shell mkdir -p .home)$(CURDIR)/.home
endif
# DRY=1 shows the plan alone: what is to do, and the disk, weights and time that it takes.
DRY ?=
DRY_ONLY = $(filter-out 0,$(DRY))
# --logger steps is workflow/snakemake_logger_plugin_steps: a line per step, and no internals.
# preview.py first: a file that is no YAML would be refused by Snakemake without its name.
SNAKEMAKE_ON = @gpus=$(firstword $(filter-out 0,$(GPUS)) 1) && python workflow/preview.py \
    $(1) --cores $(CORES) --gpus $$gpus $(if $(DRY_ONLY),,--start) && \
    $(if $(DRY_ONLY),:,PYTHONPATH=workflow snakemake) --snakefile workflow/Snakefile \
    --configfile $(1) --cores $(CORES) --resources gpu=$$gpus \
    --rerun-incomplete --keep-going --logger steps
SNAKEMAKE = $(call SNAKEMAKE_ON,workflow/config/$(1).yaml)
BOOK = $(if $(DRY_ONLY),,@echo "The book: results/$(1)/book/index.html")
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
# JupyterLab refuses root unless told otherwise: in containers nobody else is there.
ALLOW_ROOT = $(if $(filter 0,$(shell id -u)), --allow-root)
AS_ROOT = $(if $(ALLOW_ROOT),@echo "JupyterLab refuses root: started with --allow-root.")
# Recipes read NAME, RAW and CONFIG as the shell's "$$NAME", so that they may hold spaces and quotes.
EXAMPLE_NAME = make study NAME=mine RAW=/data/mine
EXAMPLE_RAW = $(EXAMPLE_NAME)
EXAMPLE_CONFIG = make run CONFIG=workflow/config/mine.yaml

help:  ## say what each target does
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-11s %s\n", $$1, $$2}'
	@echo
	@echo "Any of them with TORCH=cpu: PyTorch without its CUDA libraries, some 2 GB instead of 7"
	@echo "(TORCH=cu128, auto ...: another build; TORCH=lock: the usual one; .venv remembers which)."
	@echo "Any of them with ACTIVE=1: in the active environment (conda, mamba, Binder), without .venv."

environment: $(READY)  ## set up the environment alone (TORCH=cpu: a small one, for machines without a GPU)

demo: $(READY)  ## simulated .oir files -> eight notebooks -> the book in results/demo
	$(call SNAKEMAKE,demo)
	$(call BOOK,demo)

study: given-NAME given-RAW $(READY)  ## NAME=mine RAW=/data/mine: look at a folder of images or cells, and write workflow/config/mine.yaml for it
	@python -m hsc_utils.new_study "results/$$NAME" --raw "$$RAW"

run: given-CONFIG $(READY)  ## CONFIG=workflow/config/mine.yaml: a study of your own, through all its notebooks to a book (DRY=1: only the plan)
	$(call SNAKEMAKE_ON,"$$CONFIG")
	$(if $(DRY_ONLY),,@python workflow/plan.py "$$CONFIG")

leukocytes: $(READY)  ## the same notebooks on 300 real stained leukocytes, fetched if need be (LEUKOCYTES=folder where they lie)
	$(if $(DRY_ONLY),,@python workflow/fetch_leukocytes.py $${LEUKOCYTES:+--from "$$LEUKOCYTES"})
	$(call SNAKEMAKE,leukocytes)
	$(call BOOK,leukocytes)

test: $(READY)  ## every test (set HSC_TEST_DATA to a folder of real images to test on those too)
	OMP_NUM_THREADS=1 pytest --numprocesses logical --maxprocesses 4

gpu: $(READY)  ## the tests and timings that need a GPU, in nine minutes (see benchmarks/gpu.py)
	python benchmarks/gpu.py

slurm: $(READY)  ## the tests on a real SLURM, started here for them (root; Debian: slurm-wlm, munge)
	pytest -m slurm tests/workflow/test_slurm.py

lab: $(READY)  ## open the notebooks in JupyterLab (CONFIG=workflow/config/mine.yaml: on a study of your own)
	$(AS_ROOT)
ifeq ($(call GIVEN,CONFIG),)
	jupyter lab$(ALLOW_ROOT) notebooks
else
	@folder=$$(python workflow/open_lab.py "$$CONFIG") && jupyter lab$(ALLOW_ROOT) "$$folder"
endif

book: $(READY)  ## build the demo's book again (runs whatever of the demo is missing)
	$(call SNAKEMAKE,demo) --forcerun book
	$(call BOOK,demo)

paper: $(READY)  ## the paper's settings on the paper's data in data/raw: every backbone, both levels (DRY=1: only the plan)
	$(call SNAKEMAKE,paper)
	$(call BOOK,paper)

archive: demo  ## pack the demo's results and book, without raw images and caches, into results/demo-<version>.tar.gz
	$(if $(DRY_ONLY),,tar -czf results/demo-$(VERSION).tar.gz --exclude raw --exclude cache -C results demo)

sweep: $(READY)  ## add to the demo's study: three seeds, every subset of slices, tables with a spread
	$(call SNAKEMAKE,sweep)
	$(call BOOK,demo)

traps: $(READY)  ## does the audit of shortcuts ring? five kinds of studies, ten times each, audited
	OMP_NUM_THREADS=1 python benchmarks/traps.py results/traps & other=$$!; \
	OMP_NUM_THREADS=1 python benchmarks/traps.py results/traps && wait $$other

notebooks: $(READY)  ## store the demo's outputs in notebooks/ (runs whatever of the demo is missing)
	$(call SNAKEMAKE,demo) --forcerun store -- store

unlock: $(READY)  ## release the lock that a killed run or a power loss left; then go on
	@PYTHONPATH=workflow snakemake --snakefile workflow/Snakefile \
	    --configfile workflow/config/demo.yaml --cores 1 --unlock

site: $(READY)  ## the demo's book in _site, from the outputs stored in notebooks/ (runs nothing)
	python workflow/build_book.py --stored _site

lint: $(READY)  ## check style, notebooks included
	ruff format --check .
	ruff check .

lock: $(READY)  ## pin pyproject.toml's dependencies anew in requirements.txt
	uv pip compile pyproject.toml --extra test --universal --python-version 3.12 --upgrade --quiet \
	    --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --output-file requirements.txt

# .snakemake stays: it remembers with which settings the results of every study were made.
clean:  ## delete the demo's results and caches (keeps .venv, data and other studies)
	rm -rf results/demo results/demo-*.tar.gz _site .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

given-%:
	@$(if $(call GIVEN,$*),:,echo "error: $* is missing. Say for instance: $(EXAMPLE_$*)" >&2; exit 1)

# The package may be there and yet be that of another folder.
active:
ifneq ($(call GIVEN,TORCH),)
	@echo "error: TORCH chooses the build in .venv and has no meaning with ACTIVE=1: install the \
	PyTorch that you want into the active environment." >&2; exit 1
endif
	@there=$$(python -P -c 'import hsc_utils, snakemake; print(hsc_utils.__path__[0])' 2>/dev/null); \
	[ "$$there" -ef hsc_utils ] || { echo "error: the active environment ($$(command -v python || \
	echo no python)) lacks this folder's package: make and activate one as environment.yml says, or \
	leave out ACTIVE=1." >&2; exit 1; }

# --python: without it uv would change whatever environment is active.
# Another build than the lock's is looked for before anything is fetched. PyTorch's own index has no
# hashes in the lock, so only these two packages, and what CUDA they need, come without.
.venv/.ready: requirements.txt pyproject.toml .python-version \
    $(if $(filter $(TORCH_THERE),$(TORCH_BUILD)),,another-build) | $(filter .uv/bin/uv,$(UV))
	$(UV) venv --quiet --allow-existing .venv || { echo "Python $$(cat .python-version) is needed, \
	but is neither here nor could be downloaded: install it, then start again." >&2; exit 1; }
ifneq ($(TORCH_BUILD),lock)
	@awk '/^[^ #]/ {ours = /^($(TORCH_NAMES))==/} ours && /==/ {print $$1}' requirements.txt \
	    > .venv/torch.txt
	@$(UV) pip compile --quiet --no-deps --python .venv --torch-backend $(TORCH_BUILD) \
	    .venv/torch.txt > /dev/null || { echo "error: PyTorch's build $(TORCH_BUILD) cannot be \
	had, so nothing was changed. TORCH takes lock, cpu, auto or such as cu128, and all but lock need \
	https://download.pytorch.org." >&2; exit 1; }
endif
	@rm -f $@ && echo $(TORCH_BUILD) > .venv/.torch   # what is interrupted from here on is taken up again
ifeq ($(TORCH_BUILD),lock)
	$(UV) pip sync --quiet --python .venv --require-hashes requirements.txt
else
	@awk '/^[^ #]/ {theirs = /^($(TORCH_AND_CUDA))==/} !theirs' requirements.txt > .venv/others.txt
	$(UV) pip sync --quiet --python .venv --require-hashes .venv/others.txt
	$(UV) pip install --quiet --python .venv --torch-backend $(TORCH_BUILD) -r .venv/torch.txt
endif
	$(UV) pip install --quiet --python .venv --no-deps --no-build-isolation --editable .
	touch $@

.uv/bin/uv:
	python3 -m venv .uv
	awk '/^uv==/ {pin = 1} pin {print} pin && !/\\$$/ {exit}' requirements.txt > .uv/requirements.txt
	.uv/bin/python -m pip install --quiet --require-hashes -r .uv/requirements.txt

.PHONY: help environment demo study run leukocytes test gpu slurm lab book paper archive sweep traps \
    notebooks unlock site lint lock clean active another-build
