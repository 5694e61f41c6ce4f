# make setup | quickstart | quickstart-web | test | test-fast | test-extras | test-real | lint | format | docs | clean
PYTHON ?= python3
VENV ?= .venv
CONFIG ?= configs/quickstart.yaml
# further settings of a quickstart: make quickstart ARGS="--data.rounds 5"
ARGS ?=

STAMP := $(VENV)/.installed
RUN := $(VENV)/bin/python -m
# $(call fit,CONFIG). There is no vLLM for some systems, macOS among them; a quickstart then runs with transformers,
# by configs/overlays/no_vllm*.yaml. Looked up when a recipe runs, so after the installation.
HAS_VLLM = $(shell $(VENV)/bin/python -c 'from importlib.util import find_spec; print("yes" if find_spec("vllm") else "")')
NO_VLLM = $(patsubst configs/quickstart%,configs/overlays/no_vllm%,$(filter configs/quickstart%,$(1)))
OVERLAY = $(if $(HAS_VLLM),,$(NO_VLLM))
define fit
	@$(if $(OVERLAY),echo "make: vLLM is not installed; student and teacher run on transformers (--config $(OVERLAY))",:)
	$(RUN) ovd_lightning fit --config $(1) $(addprefix --config ,$(OVERLAY)) $(ARGS)
endef

.PHONY: help setup quickstart quickstart-web test test-fast test-extras test-real lint format docs clean
.DEFAULT_GOAL := help

help:
	@echo "make quickstart       install, then train the embedded example (configs/quickstart.yaml)"
	@echo "make quickstart-web   the same for Web Q&A: search in an invented world (configs/quickstart_web.yaml)"
	@echo "make test             install, then run every test"
	@echo "make test-fast        install, then run the tests that are not marked slow"
	@echo "make test-extras      install into build/extras, and run the tests that need lm_eval or bitsandbytes"
	@echo "make test-real        install, fetch two small real models (1.3 GB) from the hub, and run the method on them"
	@echo "make lint             ruff, mypy, and the layers of the imports"
	@echo "make format           let ruff format and repair what it can"
	@echo "make docs             build the site of the documentation, into build/site"
	@echo "make setup            only install, into $(VENV); does nothing when nothing changed"
	@echo "make clean            delete $(VENV) and caches; runs/ stays"

setup: $(STAMP)

$(STAMP): pyproject.toml requirements/constraints.txt requirements/cpu-nodeps.txt requirements/install.sh
	@bash requirements/install.sh "$(PYTHON)" "$(VENV)"
	@touch "$@"

quickstart: setup
	$(call fit,$(CONFIG))

quickstart-web: setup
	$(call fit,configs/quickstart_web.yaml)

# Three files at a time, each on one thread: on two cores, as some tests wait more than they work.
test: setup
	OMP_NUM_THREADS=1 $(RUN) pytest -n 3 --dist loadfile --no-loadscope-reorder

test-fast: setup
	OMP_NUM_THREADS=1 $(RUN) pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not slow"

# In an environment of its own: transformers and peft import them, and what they need, in every process.
EXTRAS := build/extras

test-extras:
	@bash requirements/install.sh "$(PYTHON)" "$(EXTRAS)"
	$(EXTRAS)/bin/python -m pip install -q -c requirements/constraints.txt -e ".[qlora,lm-eval]"
	OMP_NUM_THREADS=1 $(EXTRAS)/bin/python -m pytest -n 2 --dist loadfile -m extras

# Real models: of the folder OVD_REAL_MODELS, with smollm2 and qwen-coder-0.5b in it; or fetched once from the hub.
REAL = $(if $(OVD_REAL_MODELS),$(OVD_REAL_MODELS),$(HOME)/.cache/ovd_lightning/real_models)
FETCH = $(VENV)/bin/hf download --include "*.json" --include "*.txt" --include "model.safetensors" --local-dir

test-real: setup
ifndef OVD_REAL_MODELS
	$(FETCH) "$(REAL)/smollm2" HuggingFaceTB/SmolLM2-135M-Instruct
	$(FETCH) "$(REAL)/qwen-coder-0.5b" Qwen/Qwen2.5-Coder-0.5B-Instruct
endif
	OVD_REAL_MODELS="$(REAL)" $(RUN) pytest tests/real

lint: setup
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(VENV)/bin/lint-imports --no-cache --no-logo

format: setup
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

docs: setup
	NO_MKDOCS_2_WARNING=1 $(RUN) mkdocs build --strict

clean:
	rm -rf "$(VENV)" .pytest_cache .mypy_cache .ruff_cache build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
