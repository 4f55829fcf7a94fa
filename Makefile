# Everything here works on a bare machine with Python 3.11 (with pip), git and make: no GPU, no hub, no system package.
# The first Python 3.11 with pip on the path; a virtual environment's own often has none.
PYTHON ?= $(shell for folder in $$(echo "$$PATH" | tr : ' '); do for name in python3.11 python3; do \
	if "$$folder/$$name" -c 'import pip, sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; \
	then echo "$$folder/$$name"; exit; fi; done; done)
UV_VERSION := 0.13.9
UV := .uv/bin/uv
VENV := .venv
# The machine's own certificates, where it has some: a company's proxy signs with one of its own.
export UV_SYSTEM_CERTS ?= $(if $(wildcard /etc/ssl/certs/ca-certificates.crt),true,false)
export HF_HUB_OFFLINE ?= 1
export RAY_DISABLE_IMPORT_WARNING := 1
unexport PYTHONDONTWRITEBYTECODE PYTHONPATH
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: help setup demo test lint check lock clean

help:  ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(VENV)/.ready  ## build .venv from requirements.lock

$(UV):
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 with pip on the path; name one: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target .uv uv==$(UV_VERSION)

$(VENV)/.ready: requirements.lock pyproject.toml | $(UV)
	test -x $(VENV)/bin/python || $(UV) venv --quiet --python $(PYTHON) $(VENV)
	# Compiled here, once: where nothing may be written later, as in many containers, every start would do it again.
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(UV) pip sync --quiet --compile-bytecode --require-hashes requirements.lock
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(UV) pip install --quiet --no-deps --no-build-isolation --editable .
	$(VENV)/bin/python -m compileall -q jobs model pipeline shards
	touch $@

demo: setup  ## bundled songs -> clean lyrics -> shards -> a small trained model -> audio and a report, in demo/
	$(VENV)/bin/python jobs/demo.py --out demo

test: setup  ## all tests
	$(VENV)/bin/python -m pytest

lint: setup  ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

check: lint test  ## what CI runs

lock: $(UV)  ## resolve pyproject.toml anew into requirements.lock
	$(UV) pip compile --quiet --upgrade --python-version 3.11 --extra demo --extra dev --generate-hashes \
		--no-emit-index-url --no-header --output-file requirements.lock pyproject.toml

clean:  ## delete the environment and what the demo wrote
	rm -rf $(VENV) .uv demo build *.egg-info
