# The whole contributor interface. A machine with Python 3.11 or newer, pip and make is enough; `make help` lists it.

PYTHON  ?= python3
HOST    := 127.0.0.1
PORT    := 4000
WORKERS := 1
JOBS    := auto

BIN     := .venv/bin
READY   := .venv/.ready
PLUGINS := $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/*/pyproject.toml))
SOURCES := core/tianji tools bench $(wildcard plugins/*/*/tianji_*)
INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python
empty   :=
space   := $(empty) $(empty)

.DEFAULT_GOAL := help
.PHONY: help setup serve test lint audit generate bench new lock clean

help:  ## List the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-16s %s\n", $$1, $$2}'

setup: $(READY)  ## Make .venv with everything in it (other targets do so by themselves)

serve: $(READY)  ## Serve on 127.0.0.1:4000 (CONFIG=file PORT=4001 WORKERS=2)
	@exec $(BIN)/tianji serve --host $(HOST) --port $(PORT) --workers $(WORKERS) $(if $(CONFIG),--config "$(CONFIG)")

test: $(READY)  ## Run all tests (JOBS=0: in one process), or those of a path (T=plugins/providers/groq)
	$(BIN)/pytest $(if $(T),$(T),-n $(JOBS)) $(ARGS)

# Plugins are top-level modules, so each one's folder is a place where mypy looks for modules.
lint: $(READY)  ## Check style, formatting, types and layers, and run the audit
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@echo "mypy --strict: the kernel, the tools, the benchmark and $(words $(PLUGINS)) plugins"
	@MYPYPATH=$(subst $(space),:,$(PLUGINS)) $(BIN)/mypy $(SOURCES)
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m tools.audit

audit: $(READY)  ## Hold every plugin to the rules of docs/rules (PLUGIN=path for one, also outside the repository)
	$(BIN)/python -m tools.audit validate $(if $(PLUGIN),--plugin "$(PLUGIN)")

generate: $(READY)  ## Rewrite what is generated: plugin tables, rule pages, the metapackage
	$(BIN)/python -m tools.audit generate
	$(BIN)/python -m tools.docs

bench: $(READY)  ## Measure the gateway (ARGS=--help)
	$(BIN)/python -m bench $(ARGS)

new: $(READY)  ## Bake a plugin into plugins/ (FAMILY=providers NAME=foo; FAMILY=provider-custom for an own format)
	@$(BIN)/tianji new "$(FAMILY)" "$(NAME)" $(ARGS)

lock: | $(READY)  ## Resolve requirements.in into requirements.lock (ARGS=--upgrade for newer versions)
	$(BIN)/uv pip compile --quiet $(ARGS) --universal --generate-hashes --no-emit-index-url --python-version 3.11 \
		--custom-compile-command "make lock" requirements.in -o requirements.lock

clean:  ## Remove .venv and everything that tools left behind
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find core plugins tests tools bench -name __pycache__ -type d -prune -exec rm -rf {} +

# Repeats are instant: the stamp is older only after the lock, a pyproject.toml or the set of plugins has changed.
# uv comes first, by pip and with its hash from the lock (where Python came without ensurepip, by the pip beside it). Then
# uv installs the lock, takes away plugins whose folder has gone, and installs the repository to be edited in place.
$(READY): requirements.lock $(wildcard pyproject.toml core/pyproject.toml plugins/* plugins/*/*/pyproject.toml)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: PYTHON=...")'
	@echo "Setting up .venv with $(words $(PLUGINS)) plugins"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { rm -rf .venv; $(PYTHON) -m venv --without-pip .venv; }
	@awk '/^uv==/ {on = 1} on {print} on && !/\\$$/ {exit}' requirements.lock > .venv/uv.txt
	@if test -x $(BIN)/pip; then pip="$(BIN)/python -m pip"; else pip="$(PYTHON) -m pip --python $(BIN)/python"; fi; \
		$$pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r .venv/uv.txt
	@$(INSTALL) --require-hashes -r requirements.lock
	@$(BIN)/uv pip list --python $(BIN)/python --editable 2>/dev/null | awk 'NR > 2 {print $$1, $$3}' | \
		while read -r name place; do test -f "$$place/pyproject.toml" || \
		$(BIN)/uv pip uninstall --quiet --python $(BIN)/python "$$name"; done
	@$(INSTALL) --no-deps --no-build-isolation -e . $(addprefix -e ./,core $(PLUGINS))
	@touch $@
