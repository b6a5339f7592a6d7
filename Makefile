# Every target makes what it needs by itself; see .ci/setup.
.PHONY: setup demo run test test-all soak soak-window check coverage bench screenshots clean
.DEFAULT_GOAL := demo

PY := .venv/bin/python
ARGS ?=
COVERED := hostile_models numerics faults_writing trying codebook_formats planner float_formats readers state_dicts prequantized \
	writers workspace schemes sources activation_schemes numerics_alone

setup:
	@.ci/setup

# With a display: the workbench on a bundled sample with a first run. Without: the same session offscreen, into build/demo.
demo: setup
	@$(PY) -m mono_quant_gui.demo $(ARGS)

run: setup
	@$(PY) -m mono_quant_gui $(ARGS)

# What is checked at every change; test-all also has the files that take half a minute or more (tests/conftest.py names them).
test: setup
ifeq ($(ARGS),)
	@QT_QPA_PLATFORM=offscreen $(PY) -m pytest -n 2 --dist loadfile -m "not slow"
else
	@QT_QPA_PLATFORM=offscreen $(PY) -m pytest $(ARGS)
endif

test-all: setup
	@QT_QPA_PLATFORM=offscreen $(PY) -m pytest -n 2 --dist loadfile

# The full counts of what `make test` tries a part of: hostile files, failing calls, kills, a giant in 2 GB; one table.
soak: setup
	@$(PY) -m tests.soak $(ARGS)

# The window alone in full: 20,000 random events; 200 models and 200 windows opened and closed.
soak-window: setup
	@MONO_QUANT_MONKEY=20000 MONO_QUANT_MODELS=200 MONO_QUANT_WINDOWS=200 QT_QPA_PLATFORM=offscreen $(PY) -m pytest -s \
		tests/gui/test_monkey.py tests/gui/test_cycles.py

check: setup
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m pyright
	@.venv/bin/lint-imports
	@$(PY) .ci/check_strings.py

# Every line of the readers, writers, arithmetic and schemes is run by these tests, or it is named; a few minutes.
coverage: setup
	@rm -rf build/coverage && mkdir -p build/coverage
	@QT_QPA_PLATFORM=offscreen $(PY) -m coverage run -p -m pytest -n 2 --dist loadfile $(COVERED:%=tests/engine/test_%.py)
	@$(PY) -m coverage combine -q
	@$(PY) -m coverage report

# Runs of the bench are no runs of the user's.
bench: export MONO_QUANT_RUNS = $(CURDIR)/build/bench-runs
bench: setup
	@$(PY) tests/bench/run.py $(ARGS)
	@$(PY) tests/bench/going_on.py
	@$(PY) tests/bench/calibration.py
	@$(PY) tests/bench/inference.py
	@$(PY) tests/bench/window.py
	@$(PY) tests/bench/search.py
	@$(PY) tests/bench/hostile.py

# The pictures in the README, made anew.
screenshots: setup
	@$(PY) -m mono_quant_gui.demo --offscreen --screenshots assets/screenshots
	@QT_SCALE_FACTOR=2 $(PY) -m mono_quant_gui.demo --offscreen --out build/demo-2x --screenshots assets/screenshots

clean:
	rm -rf build .venv
