# make help lists the targets; everything runs inside .venv, which `make setup` builds.
# No root and nothing beside Python >= 3.11, make and a network for packages is needed.

PYTHON ?= python3
LOCK := container/requirements-dev.lock
# A copy of the lock the environment was built from: a changed lock rebuilds it, nothing else does.
INSTALLED := .venv/installed.lock
BIN := .venv/bin
# Has to be built, so it is not in the lock, and everything works without it.
PESQ := pesq==0.0.4

# Whole files together, so that what a file sets up is set up once; in their order, since by the
# number of their tests the ones that start many processes would come last.
WORKERS ?= 2
PYTEST := $(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# One thread per process: the tests and the demo start several processes themselves.
export OMP_NUM_THREADS ?= 1
export PYTHONPATH := $(CURDIR)/src$(if $(PYTHONPATH),:$(PYTHONPATH))
export PYTHONNOUSERSITE := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo app doctor lint test test-all

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

setup: ## build .venv from the lock file, if it is not there yet or the lock has changed
	@if ! $(BIN)/python -c "" 2>/dev/null || ! cmp -s $(LOCK) $(INSTALLED); then \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	    { echo "error: $(PYTHON) is missing or older than 3.11: install Python 3.11 or newer, or name one: make setup PYTHON=/path/to/python3" >&2; exit 1; }; \
	  $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	    { echo "error: $(PYTHON) has no venv module: install it (Debian, Ubuntu: apt install python3-venv) or name another Python: make setup PYTHON=/path/to/python3" >&2; exit 1; }; \
	  echo "setup: building .venv from $(LOCK) (some 3 GB of packages; minutes)" && \
	  $(PYTHON) -m venv --clear .venv && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $(LOCK) && \
	  { $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(PESQ) || \
	    echo "setup: PESQ could not be built (is there a C compiler?): src/evaluate.py will leave it out"; } && \
	  cp $(LOCK) $(INSTALLED); \
	fi

demo: setup ## restore noisy speech, then train three small stages; AUDIO_DIR=/my/wavs restores yours
	@$(BIN)/python src/demo $${AUDIO_DIR:+--audio-dir "$$AUDIO_DIR"} $${STEPS:+--steps $$STEPS}

app: setup ## open a page to try the model on; APP="--port 8080" gives it options
	@$(BIN)/python src/app.py $(APP)

doctor: setup ## say what this machine can run, and how to mend what it cannot
	@$(BIN)/python src/doctor.py

lint: setup ## style, types and the layers' import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint ## lint, types, the quick tests, the many-process ones and a kill-and-resume
	$(PYTEST) -m "not slow and not gpu"

test-all: test ## the slow tests too, and those for a GPU where there is one
	$(PYTEST) -n 3 -m "slow and not gpu" # these wait much of their time
	@if $(BIN)/python -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then \
	  $(BIN)/pytest -m gpu; \
	else \
	  echo "test-all: no GPU is here, so the tests marked gpu were left out"; \
	fi
