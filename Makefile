# The study's build graph. `make study` and `make test` set everything up by themselves.
# Change the profile or single parameters:  make study PROFILE=smoke SET="seed=3 data.options.style=0.8"

PROFILE ?= demo
# Parameters that differ from the profile's, as key=value, separated by spaces.
SET ?=
# Any Python of at least 3.11; where this one is older, newer names are tried.
PYTHON ?= python3
VENV ?= .venv
# What `make mutants` tries: one package, such as filtering, or so many mutants; by default all.
PACKAGE ?=
MUTANTS ?=
# An index of torch's builds for CPUs, as torch's own page names it: gigabytes less to download.
TORCH_INDEX ?=

INSTALLED := $(VENV)/.installed
# `make study RUN=python` takes the environment that is active, and builds none. A variable of the
# shell that happens to be called RUN does not.
ifneq ($(origin RUN),command line)
RUN := $(VENV)/bin/python
READY := $(INSTALLED)
endif

SOURCES := $(shell find diffcore paperbirds -type f ! -path '*/__pycache__/*' ! -path '*.egg-info/*' ! -name '.*')
# The profile with those that it inherits from, at most three levels up.
bases = $(foreach name,$(1),$(shell sed -n 's/^base: *\([^ ]*\).*/\1/p' params/$(name).yaml 2>/dev/null))
BASE := $(call bases,$(PROFILE))
BASES := $(BASE) $(call bases,$(BASE)) $(call bases,$(call bases,$(BASE)))
PARAMS := $(patsubst %,params/%.yaml,$(sort $(PROFILE) $(filter-out %.yaml,$(BASES))))
NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb))
NAMES := $(basename $(notdir $(NOTEBOOKS)))
REPORT := runs/$(PROFILE)/report
EXECUTED := $(foreach name,$(NAMES),$(REPORT)/$(name)/$(name).ipynb)
SETTINGS := runs/$(PROFILE)/.set

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# A later notebook reads what an earlier one wrote, and each uses all cores.
.NOTPARALLEL:
.PHONY: help setup study verify publish quick test mutants lab tune choose bench pretrain clean always

help: ## list these targets
	@sed -n 's/^\([a-z]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

setup: $(READY) ## create .venv with the locked packages and these two

study: $(REPORT)/index.html ## run the notebooks of PROFILE (demo) that are out of date
	@echo "The study is in $<"

verify: study ## compare the fresh report of PROFILE with the committed one, number by number
	$(RUN) -m diffcore verify --profile '$(PROFILE)'

publish: study ## put the fresh report of PROFILE in the place of the committed one
	$(RUN) -m diffcore publish --profile '$(PROFILE)'

quick: $(READY) ## run the tests that need no kernel, subprocess or dummy model: a minute
	$(RUN) -m pytest -m 'not slow' -n 2

test: $(READY) ## run all tests
	$(RUN) -m pytest -n 2 --dist loadscope

mutants: $(READY) ## count the faults that tests notice: hours, or less with MUTANTS=200 or PACKAGE=mixing
	@$(RUN) -c 'import mutmut' 2>/dev/null || \
	    $(RUN) -m pip install --quiet --no-build-isolation --editable '.[mutants]'
	OMP_NUM_THREADS=1 $(RUN) tests/mutants.py --package '$(PACKAGE)' --sample '$(MUTANTS)'

lab: $(READY) ## open the notebooks in JupyterLab
	$(RUN) -m jupyter lab --notebook-dir=notebooks

tune: $(READY) ## choose each method's settings on the training images of PROFILE
	$(RUN) -m diffcore tune --profile '$(PROFILE)'

choose: $(READY) ## choose guidance, steps and solver of Paperbirds' model, without the oracle
	$(RUN) -m paperbirds choose --profile '$(PROFILE)'

bench: $(READY) ## time the library against other ways, as ratios in one run
	$(RUN) -m benchmarks

pretrain: $(READY) ## train the models of Paperbirds again, from seeds
	$(RUN) -m paperbirds pretrain

clean: ## remove caches, and data and fresh report of PROFILE; committed reports and .venv stay
	rm -rf runs/$(PROFILE) mutants .pytest_cache .ruff_cache .hypothesis
	find diffcore paperbirds benchmarks tests -name __pycache__ -prune -exec rm -rf {} +

$(INSTALLED): requirements.lock pyproject.toml paperbirds/pyproject.toml
	@for python in $(PYTHON) python3.13 python3.12 python3.11; do \
	    if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        exec $$python -m venv $(VENV); \
	    fi; \
	done; \
	echo "This study needs Python 3.11 or newer, and '$(PYTHON)' is not." >&2; \
	echo "Install one, then name it: make PYTHON=/path/to/python3.12 setup" >&2; \
	exit 1
	@echo "Installing the locked packages into $(VENV): gigabytes, minutes the first time."
ifdef TORCH_INDEX
	sed -nE 's/^(torch|torchvision)=+/\1==/p' requirements.lock > $(VENV)/torch.txt
	sed -E '/^(torch=|torchvision=|triton|cuda-|nvidia-)/d' requirements.lock > $(VENV)/others.txt
	$(VENV)/bin/python -m pip install --quiet --index-url '$(TORCH_INDEX)' -r $(VENV)/torch.txt
	$(VENV)/bin/python -m pip install --quiet -r $(VENV)/others.txt
else
	$(VENV)/bin/python -m pip install --quiet -r requirements.lock
endif
	$(VENV)/bin/python -m pip install --quiet --no-deps --no-build-isolation \
	    --editable . --editable ./paperbirds
	@touch $@

# Holds the parameters of the last run, and is touched only when they change; with the plus sign
# also under `make -n`, which would otherwise take it for changed.
$(SETTINGS): always
	+@mkdir -p $(@D)
	+@echo '$(SET)' | cmp -s - $@ || echo '$(SET)' > $@

# The environment comes first but does not date a report: its packages are pinned.
$(EXECUTED): $(REPORT)/%.ipynb: $(PARAMS) $(SOURCES) $(SETTINGS) | $(READY)
	$(RUN) -m diffcore study --profile '$(PROFILE)' --notebook '$(*F)' \
	    $(foreach assignment,$(SET),--set '$(assignment)')

$(foreach name,$(NAMES),$(eval $(REPORT)/$(name)/$(name).ipynb: notebooks/$(name).ipynb))

# The report sums up what the others found.
REPORTED := $(REPORT)/08_report/08_report.ipynb
$(REPORTED): $(filter-out $(REPORTED),$(EXECUTED))

$(REPORT)/index.html: $(EXECUTED) $(PARAMS) $(SOURCES) | $(READY)
	$(RUN) -m diffcore index --profile '$(PROFILE)'

params/%.yaml:
	@echo "No profile '$*'. There are: $(basename $(notdir $(wildcard params/*.yaml)))" >&2
	@exit 1
