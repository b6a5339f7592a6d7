# Every target makes what it needs by itself; see .ci/setup.
.PHONY: setup demo run test soak check bench screenshots clean
.DEFAULT_GOAL := demo

PY := .venv/bin/python
ARGS ?=

setup:
	@.ci/setup

# With a display: the workbench on a bundled sample with a first run. Without: the same session offscreen, into build/demo.
demo: setup
	@$(PY) -m mono_quant_gui.demo $(ARGS)

run: setup
	@$(PY) -m mono_quant_gui $(ARGS)

# Windows one after the other: each has two engine processes and deadlines of its own.
test: setup
ifeq ($(ARGS),)
	@QT_QPA_PLATFORM=offscreen $(PY) -m pytest -n 2 --dist loadfile --ignore tests/gui
	@QT_QPA_PLATFORM=offscreen $(PY) -m pytest tests/gui
else
	@QT_QPA_PLATFORM=offscreen $(PY) -m pytest $(ARGS)
endif

# The full counts of what `make test` tries a part of: kills, failing calls.
soak: setup
	@MONO_QUANT_SOAK=1 QT_QPA_PLATFORM=offscreen $(PY) -m pytest -s -k faults tests/engine $(ARGS)

check: setup
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m pyright
	@.venv/bin/lint-imports
	@$(PY) .ci/check_strings.py

# Runs of the bench are no runs of the user's.
bench: export MONO_QUANT_RUNS = $(CURDIR)/build/bench-runs
bench: setup
	@$(PY) tests/bench/run.py $(ARGS)
	@$(PY) tests/bench/going_on.py
	@$(PY) tests/bench/calibration.py
	@$(PY) tests/bench/inference.py
	@$(PY) tests/bench/window.py
	@$(PY) tests/bench/search.py

# The pictures in the README, made anew.
screenshots: setup
	@$(PY) -m mono_quant_gui.demo --offscreen --screenshots assets/screenshots

clean:
	rm -rf build .venv
