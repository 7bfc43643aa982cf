# One rule sets everything up: a .venv from requirements.lock, and in it the command `study`, which works from any folder and
# runs the code that lies here. All other rules need it.
PYTHON ?= python3
BIN := .venv/bin

# Where it is set, every process compiles torch, Ray and pandas anew: 5 s of CPU before a study or a worker does anything.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo test test-fast test-slow test-killed test-cluster test-faults test-full lint format audit bench pages pictures lock clean

setup: .venv/installed

# At its end libraries are imported, which compiles them once; else every process of the first study does.
.venv/ready: requirements.lock requirements-uv.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.lock
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock requirements-uv.lock
	$(BIN)/python -c 'import matplotlib.figure, optuna, pandas, ray.tune, torch._dynamo, torchvision, wandb'
	touch $@

.venv/installed: .venv/ready pyproject.toml
	$(BIN)/uv pip install --quiet --python $(BIN)/python --offline --no-deps --no-build-isolation --editable .
	touch $@

demo: setup
	$(BIN)/python -m study.run --grid demo

# Three processes for two cores: tests that run Ray wait for it half of the time. Files stay whole, for the studies that their tests
# share, and keep this order: those with a Ray take minutes, and the short ones fill what is left.
PYTEST := $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test: setup
	$(PYTEST) tests/integration tests/end_to_end tests/unit

test-fast: setup
	$(PYTEST) tests/unit

test-slow: setup
	$(PYTEST) tests/integration tests/end_to_end

# What of test-faults CI has time for: what was killed, interrupted or made by other code goes on.
KILLED := tests/integration/test_branches.py tests/integration/test_until_decided.py tests/integration/test_stored_studies.py \
	tests/integration/test_tracking.py::test_a_run_that_was_begun_is_made_whole_from_the_records_and_is_there_once \
	tests/end_to_end/test_live_page.py::test_an_open_page_goes_on_when_the_server_is_started_again \
	tests/unit/study/test_compatibility.py
test-killed: setup
	$(PYTEST) -m faults $(KILLED)

test-cluster: setup
	$(PYTEST) tests/cluster

# All there is, with all made-up inputs: for a night.
test-full: export FULL_TESTS = 1
test-full: test test-cluster test-faults

test-faults: setup
	$(BIN)/python -m pytest -m faults

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python -m tests.benchmarks

# What docs/columns.md and docs/results.md hold of code and records.
pages: setup
	$(BIN)/python -m tests.support.readme
	$(BIN)/python -m tests.support.results

# Needs a chromium on the PATH.
pictures: setup
	$(BIN)/python -m docs.pictures.make

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

audit: setup
	$(BIN)/python .ci/audit.py

lock: setup
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --group dev \
		--custom-compile-command 'make lock' pyproject.toml -o requirements.lock

clean:
	rm -rf .venv
