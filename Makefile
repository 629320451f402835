# `make demo` and `make test` need Python 3.11 or newer and make, nothing else. Both may be run again at any time.
PYTHON ?= python3
VERSIONS := 0.5.17 0.5.23
NEWEST := $(lastword $(VERSIONS))
VENV := .venv-$(NEWEST)
# Releases between these: .sglang/VERSION has the source of each, and `make test-rest` the tests marked `versions`.
export BETWEEN := 0.5.18 0.5.19 0.5.20 0.5.21 0.5.22

export PIP_DISABLE_PIP_VERSION_CHECK := 1
PIP_FLAGS := -q --no-build-isolation
# Left-overs of an earlier build would be packed again, also files that are gone from the sources.
FRESH := rm -rf build sglang_hisa.egg-info &&

.NOTPARALLEL:
.PHONY: help test test-rest test-all test-browser demo demo-cpu demo-gpu lint format clean
.SECONDARY:

help:
	@echo 'make demo     stock and HISA one after the other, on the GPU or else on the CPU'
	@echo 'make test     lint, all tests without a server, and a real server for each promise of'
	@echo '              docs/reliability.md, with SGLang $(NEWEST): 20 minutes on two cores'
	@echo 'make test-all      that, then the rest: every test with SGLang $(VERSIONS), an hour in all'
	@echo 'make test-rest     what make test leaves to make test-all'
	@echo 'make test-browser  reports in headless Chromium, which must be on the PATH'
	@echo 'make lint     ruff and mypy'
	@echo 'make format   let ruff rewrite the sources'
	@echo 'make clean    remove environments, demo files and caches'

# tests/parts.py says which tests each has. Any version but the newest is in `rest` alone.
test: install-$(NEWEST)
	@.ci/test quick $(NEWEST)

test-rest: $(VERSIONS:%=install-%) $(BETWEEN:%=.sglang/%)
	@.ci/test rest $(VERSIONS)

test-all: test test-rest

# They import with the packages of one of the two environments, so that only their own wheel is fetched.
.sglang/%: | $(VENV)/.ready
	@.ci/step 'SGLang $* into $@' $(VENV)/bin/pip install -q --no-deps --upgrade --target $@ sglang==$*

test-browser: install-$(NEWEST)
	$(VENV)/bin/python -m pytest -m browser tests/browser

# SGLang that is already in $(PYTHON) and sees a GPU is used as it is; otherwise the CPU environment is made.
demo:
	@if $(PYTHON) -c 'import importlib.util as u, torch; raise SystemExit(not (u.find_spec("sglang") and torch.cuda.is_available()))' 2>/dev/null; \
	then $(MAKE) --no-print-directory demo-gpu; else $(MAKE) --no-print-directory demo-cpu; fi

demo-cpu: install-$(NEWEST)
	@$(VENV)/bin/hisa demo

# Where the setuptools of $(PYTHON) is older than pyproject.toml asks for, pip fetches one for the build alone.
BUILDS := import setuptools; raise SystemExit(int(setuptools.__version__.split(chr(46))[0]) < 77)
demo-gpu:
	@rm -rf .hisa/site
	@.ci/step 'sglang-hisa into .hisa/site (the SGLang of $(PYTHON) stays untouched)' sh -c '$(FRESH) \
	$(PYTHON) -m pip install -q $$($(PYTHON) -c "$(BUILDS)" 2>/dev/null && echo --no-build-isolation) \
	--target .hisa/site $$($(PYTHON) -c "import rich, packaging" 2>/dev/null && echo --no-deps) .'
	@PYTHONPATH=$(CURDIR)/.hisa/site:$$PYTHONPATH $(PYTHON) -m sglang_hisa.launch.cli demo

# An environment is made once, and again when what it is made from changes.
.venv-%/.ready: launch/requirements/cpu-%.txt pyproject.toml
	@.ci/check-python $(PYTHON)
	@.ci/step '$(@D) 1/4: virtual environment' $(PYTHON) -m venv $(@D)
	@.ci/step '$(@D) 2/4: torch and what SGLang imports (about 2 minutes)' $(@D)/bin/pip install -q -r $<
	@.ci/step '$(@D) 3/4: SGLang $*' $(@D)/bin/pip install -q --no-deps sglang==$*
	@.ci/step '$(@D) 4/4: test tools' sh -c '$(FRESH) $(@D)/bin/pip install $(PIP_FLAGS) ".[cpu,test]"'
	@touch $@

# The project itself is installed as a user installs it, afresh each time.
install-%: .venv-%/.ready
	@.ci/step 'sglang-hisa into .venv-$*' sh -c '$(FRESH) .venv-$*/bin/pip install $(PIP_FLAGS) --no-deps --force-reinstall .'

# mypy checks the installed package, where kernels/ and patches/ are below sglang_hisa: not from this folder.
lint: $(VENV)/.ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	cd $(VENV) && bin/mypy --config-file ../pyproject.toml

format: $(VENV)/.ready
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:
	rm -rf $(VERSIONS:%=.venv-%) .sglang .hisa build sglang_hisa.egg-info .pytest_cache .ruff_cache .hypothesis
