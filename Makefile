# Every target sets up what it needs: a bare clone and `make demo` are enough.
# `make help` prints the targets with the text after their `##`.

SHELL := /bin/bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# EXPERIMENT names a file in experiments/; ARGS is appended to the command, e.g. ARGS="--trainer.max_steps 100".
EXPERIMENT ?= lift
RUN_DIR ?= runs/$(EXPERIMENT)
ARGS ?=
VENV ?= .venv
# The first interpreter that pyproject.toml allows.
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && { echo $$p; break; }; done)

# What `make collect` records; the demos of lift.yaml unless told otherwise.
SIMULATOR ?= robosuite
TASK ?= Lift
EPISODES ?= 60
WORKERS ?= 2
IMAGE_SIZE ?= 64
DEMOS ?= demos/lift.hdf5

BIN := $(VENV)/bin
FOLDERS := $(wildcard files networks datamodules simulators rollouts policies lightning_modules callbacks videopolicy tests benchmarks)
# CMake 4 refuses the policy version that LIBERO's egl_probe asks for; this lets it build.
PIP_INSTALL := CMAKE_POLICY_VERSION_MINIMUM=3.5 $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

.PHONY: help
help: ## print this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 18
	@echo
	@echo "EXPERIMENT=$(EXPERIMENT) picks experiments/$(EXPERIMENT).yaml; ARGS=\"...\" is appended to the command."

# --- set-up -----------------------------------------------------------------------------------------------------------
# A stamp stands for what is installed; it is older than pyproject.toml or constraints.txt when either changed.

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed and neither was found; install one or give PYTHON=/path/to/it." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-robosuite: pyproject.toml constraints.txt | $(BIN)/python
	@.ci/system-packages
	$(PIP_INSTALL) -e '.[robosuite]'
	@touch $@

$(VENV)/.installed-all: pyproject.toml constraints.txt | $(BIN)/python
	@.ci/system-packages build
	$(PIP_INSTALL) -e '.[libero,dev]'
	@touch $@ $(VENV)/.installed-robosuite

.PHONY: setup
setup: $(VENV)/.installed-all ## make .venv with everything: both simulators that share it, and the test tools

# --- training ---------------------------------------------------------------------------------------------------------

.PHONY: demo
demo: $(VENV)/.installed-robosuite .venvs/metaworld/.installed ## collect, train with and without video learning, roll out on Meta-World
	@$(BIN)/videopolicy demo $(ARGS)

.PHONY: collect
collect: $(VENV)/.installed-robosuite ## record scripted demos: SIMULATOR, TASK, EPISODES, WORKERS, IMAGE_SIZE, DEMOS (a file)
	@$(BIN)/videopolicy collect --simulator $(SIMULATOR) --task $(TASK) --episodes $(EPISODES) --workers $(WORKERS) --image-size $(IMAGE_SIZE) --output $(DEMOS)

# Lift's demos come from the scripted expert; every other experiment reads files that you downloaded.
REQUIREMENTS := $(VENV)/.installed-robosuite $(if $(filter lift,$(EXPERIMENT)),collect)

.PHONY: train-video
train-video: $(REQUIREMENTS) ## stage 1 of EXPERIMENT: teach the video network to film the task
	@$(BIN)/lightning fit -c experiments/$(EXPERIMENT).yaml --stage video --run_dir $(RUN_DIR) $(ARGS)

.PHONY: train-action
train-action: $(REQUIREMENTS) ## stage 2 of EXPERIMENT: freeze it and learn to act
	@$(BIN)/lightning fit -c experiments/$(EXPERIMENT).yaml --stage action --run_dir $(RUN_DIR) $(ARGS)

.PHONY: evaluate
evaluate: $(VENV)/.installed-robosuite ## roll the trained policy of EXPERIMENT out in its simulator
	@$(BIN)/videopolicy evaluate --checkpoint $(RUN_DIR)/action/checkpoints/last.ckpt $(ARGS)

.PHONY: tensorboard
tensorboard: $(VENV)/.installed-robosuite ## show losses, success rates and videos of every run at http://localhost:6006
	@$(BIN)/tensorboard --logdir runs $(ARGS)

# --- simulators with a Python of their own ------------------------------------------------------------------------------
# simulators/environments/NAME.txt is everything that .venvs/NAME holds. SIM_PYTHON=/path/to/python takes another
# interpreter than the first of these that is there.

SIM_PYTHON ?=
SIM_PYTHONS_libero := python3.11 python3.12
SIM_PYTHONS_robosuite15 := python3.11 python3.12 python3.13
SIM_PYTHONS_robocasa365 := python3.11 python3.12 python3.13
SIM_PYTHONS_robocasa := python3.10
SIM_PYTHONS_metaworld := python3.11 python3.12 python3.13
ROBOCASA_REF ?= v0.2
ROBOCASA_SOURCE := .venvs/src/robocasa

.venvs/%/.installed: simulators/environments/%.txt
	@.ci/system-packages
	@python="$(SIM_PYTHON)"; for p in $(SIM_PYTHONS_$*); do [ -n "$$python" ] || ! $$p -c '' 2>/dev/null || python=$$p; done; \
	[ -n "$$python" ] || { echo "sim-$* needs one of: $(SIM_PYTHONS_$*); none was found: install one or give SIM_PYTHON=/path/to/it." >&2; exit 1; }; \
	"$$python" -m venv --clear .venvs/$*
	.venvs/$*/bin/python -m pip install --disable-pip-version-check --quiet --no-deps -r $<
	@touch $@

.PHONY: sim-libero
sim-libero: .venvs/libero/.installed ## make .venvs/libero: LIBERO without torch
	@echo "Use it with python: .venvs/libero/bin/python; look at it with videopolicy simulators check libero --python .venvs/libero/bin/python"

.PHONY: sim-robosuite15
sim-robosuite15: .venvs/robosuite15/.installed ## make .venvs/robosuite15: robosuite 1.5 with numpy 2
	@echo "Use it with python: .venvs/robosuite15/bin/python; look at it with videopolicy simulators check robosuite15"

.PHONY: sim-robocasa365
sim-robocasa365: .venvs/robocasa365/.installed ## make .venvs/robocasa365: RoboCasa v1.0's code with numpy 2, without its assets
	@echo "Its assets (10 GB): yes | .venvs/robocasa365/bin/python -m robocasa.scripts.download_kitchen_assets"
	@echo "Use it with python: .venvs/robocasa365/bin/python; look at it with videopolicy simulators check robocasa365"

.PHONY: sim-metaworld
sim-metaworld: .venvs/metaworld/.installed ## make .venvs/metaworld: Meta-World 3 with numpy 2
	@echo "Use it with python: .venvs/metaworld/bin/python; look at it with videopolicy simulators check metaworld"

$(ROBOCASA_SOURCE)/setup.py:
	@mkdir -p $(dir $(ROBOCASA_SOURCE))
	@git clone --depth 1 --branch $(ROBOCASA_REF) https://github.com/robocasa/robocasa $(ROBOCASA_SOURCE) || \
	{ echo "RoboCasa $(ROBOCASA_REF) could not be cloned; put its source at $(ROBOCASA_SOURCE) and run make sim-robocasa again." >&2; exit 1; }

.venvs/robocasa/.with-assets: .venvs/robocasa/.installed $(ROBOCASA_SOURCE)/setup.py
	.venvs/robocasa/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e $(ROBOCASA_SOURCE)
	yes | .venvs/robocasa/bin/python -m robocasa.scripts.download_kitchen_assets
	@touch $@

.PHONY: sim-robocasa
sim-robocasa: .venvs/robocasa/.with-assets ## make .venvs/robocasa: RoboCasa v0.2 with its assets (5 GB), Python 3.10
	@echo "Use it with python: .venvs/robocasa/bin/python; look at it with videopolicy simulators check robocasa"

# --- checks -----------------------------------------------------------------------------------------------------------

TEST_WORKERS ?= 2
QUICK := not slow and not full and not gpu
# Tests that fork cannot do so beside a test process's own threads. pytest's status 5 is that ARGS left no test.

.PHONY: test
test: $(VENV)/.installed-all ## the tests that take seconds each (under 20 minutes on 2 cores)
	@$(BIN)/python -m pytest -m "not forks and $(QUICK)" -n $(TEST_WORKERS) --dist worksteal --color=no $(ARGS) || test $$? = 5
	@$(BIN)/python -m pytest -m "forks and $(QUICK)" --color=no $(ARGS) || test $$? = 5

QUICK_FOLDERS := tests/files tests/networks tests/policies tests/datamodules tests/test_architecture.py tests/test_house.py tests/test_import_order.py

.PHONY: test-quick
test-quick: $(VENV)/.installed-all ## the tests of files, networks, policies and data alone: no simulator
	@$(BIN)/python -m pytest -m "not forks and not simulator and not golden and $(QUICK)" -n $(TEST_WORKERS) --dist worksteal --color=no $(wildcard $(QUICK_FOLDERS)) $(ARGS)

.PHONY: test-slow
test-slow: $(VENV)/.installed-all ## the tests that take minutes each
	@$(BIN)/python -m pytest -m "slow and not full and not gpu" --color=no $(ARGS)

.PHONY: test-docs
test-docs: $(VENV)/.installed-all ## every command that README.md and docs/ print, run once against small parts; part of test-slow
	@$(BIN)/python -m pytest -m docs --color=no $(ARGS)

.PHONY: test-full
test-full: $(VENV)/.installed-all ## the networks at their real size against the published ones: 10 GiB, 2 to 5 minutes on 2 cores
	@nice $(BIN)/python -m pytest -m "full and not gpu" -rP --color=no $(ARGS)

.PHONY: test-gpu
test-gpu: $(VENV)/.installed-all ## the tests that need a CUDA device
	@$(BIN)/python -m pytest -m gpu --color=no $(ARGS)

.PHONY: check
check: $(VENV)/.installed-all ## ruff and mypy --strict
	@$(BIN)/ruff check $(FOLDERS)
	@$(BIN)/ruff format --check $(FOLDERS)
	@$(BIN)/mypy

.PHONY: clean
clean: ## remove caches and build leftovers; runs/, demos/ and .venv stay
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .test-cache
	@find $(FOLDERS) -name __pycache__ -type d -prune -exec rm -rf {} +
