# The few verbs of this checkout. `make demo` and `make test` do all the set-up themselves.
#
# uv is used when it is on the PATH; otherwise the pinned one is installed into the checkout's
# own environment. Index settings come from the user's own pip and uv configuration. Stamps
# remember a finished set-up, so a second run is quick and needs no network.
# Written for GNU Make 3.81 (macOS) and later.

UV_VERSION := 0.13.8
VENV := .venv
PYTHON := $(VENV)/bin/python
UV := $(shell command -v uv 2>/dev/null || echo $(VENV)/bin/uv)
RUN_STAMP := $(VENV)/.ready-to-run
DEV_STAMP := $(VENV)/.ready-to-develop
LOCK := pyproject.toml uv.lock
ARGS ?=

# Whatever environment the caller's shell has activated, this checkout uses its own.
unexport VIRTUAL_ENV
export UV_PROJECT_ENVIRONMENT := $(VENV)

.DEFAULT_GOAL := help
.PHONY: help demo test test-unit check tidy format setup bench wheel clean

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' Makefile

demo: $(RUN_STAMP) ## run a real market on this machine until Ctrl-C; ARGS="--macs 3" adds options
	@$(VENV)/bin/coster up $(ARGS)

test: $(DEV_STAMP) ## the whole default suite on all cores; ARGS="-k ledger" narrows it
	$(PYTHON) -m pytest -n logical --maxprocesses 4 --no-loadscope-reorder $(ARGS)

test-unit: $(DEV_STAMP) ## only the rules and the style: seconds, no Ray
	$(PYTHON) -m pytest tests/unit tests/test_tidy.py $(ARGS)

check: $(DEV_STAMP) ## lint, format, types, and the style as a test
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(PYTHON) -m pytest -q tests/test_tidy.py

tidy: $(DEV_STAMP) ## only the style as a test
	$(PYTHON) -m pytest -q tests/test_tidy.py

format: $(DEV_STAMP) ## rewrite the sources in the one format
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

setup: $(DEV_STAMP) ## everything a developer needs, into .venv

bench: $(DEV_STAMP) ## every benchmark in turn; they print ratios and never fail on a time
	@for script in benchmarks/bench_*.py; do \
	  echo "== $$script"; $(PYTHON) "$$script" $(ARGS) || exit 1; \
	done

wheel: $(RUN_STAMP) ## build the wheel into dist/
	@$(ensure_uv)
	$(UV) build --wheel --out-dir dist

clean: ## remove the environment, caches and builds; never a market's data
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUN_STAMP): $(LOCK)
	@$(ensure_uv)
	@$(call sync,--no-dev --inexact,--no-dev)
	@touch $@

$(DEV_STAMP): $(LOCK)
	@$(ensure_uv)
	@$(call sync,,)
	@touch $(RUN_STAMP) $@

# $(call sync,FLAGS OF SYNC,FLAGS OF EXPORT): the locked packages into the environment. uv does
# not read pip's configuration; where it fails, pip is asked, with this machine's own index,
# certificates and folders of wheels.
define sync
$(UV) sync --frozen $(1) || { \
  echo "uv could not fetch the packages; asking pip, with this machine's index settings" >&2; \
  { test -x $(PYTHON) || $(UV) venv $(VENV); } && \
  $(UV) export --quiet --frozen --no-emit-project $(2) -o $(VENV)/locked.txt && \
  { $(PYTHON) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m ensurepip; } && \
  $(PYTHON) -m pip install --quiet --no-deps -r $(VENV)/locked.txt && \
  $(PYTHON) -m pip install --quiet --no-deps -e .; \
}
endef

# Does nothing where uv is at hand. The environment is then made by Python itself, in which uv
# keeps what it did not install: itself and pip.
define ensure_uv
test -x "$(UV)" || { \
  found=; \
  for python in python3.13 python3.12 python3.11 python3; do \
    if "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
        >/dev/null 2>&1; then found="$$python"; break; fi; \
  done; \
  if [ -z "$$found" ]; then \
    echo "coster needs Python 3.11, 3.12 or 3.13 on the PATH; install one and try again." >&2; \
    exit 1; \
  fi; \
  echo "No uv here: setting up $(VENV) with $$found"; \
  "$$found" -m venv $(VENV) || { \
    echo "$$found cannot make environments; on Debian: apt-get install python3-venv" >&2; \
    rm -rf $(VENV); exit 1; \
  }; \
  $(PYTHON) -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION); \
}
endef
