# One line a target: make help. Every target sets up .venv itself when it is missing or older than the lock.
PROFILE ?= digits
DEVICE ?= cpu
N ?= 200
PYTHON ?= python3
SHELL := bash
VENV := .venv
RUN := $(VENV)/bin/python -m
READY := $(VENV)/.ready
UV := 0.13.9
COMPILE := $(VENV)/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	--no-annotate --quiet
# Notebooks start this Python, whatever kernels there are on the machine, and pip installs into .venv alone.
export JUPYTER_PATH := $(abspath $(VENV))/share/jupyter$(addprefix :,$(JUPYTER_PATH))
export PIP_USER := 0
unexport PIP_TARGET PIP_PREFIX
# Nor do the user's start-up files run before our notebooks; in JupyterLab they do.
reproduce test notebooks: export IPYTHONDIR := $(abspath $(VENV))/ipython

RESULTS ?= results/runs
$(if $(filter-out 1,$(words $(RESULTS))),$(error RESULTS: make takes no folder with a space in its name; link to it))
EXECUTED := $(RESULTS)/$(PROFILE)/notebooks
PACKAGE = $(shell find sdd_utils -name '*.py')
# The profile, and the one that it is like
SETTINGS = $(patsubst %,notebooks/profiles/%.yaml,$(PROFILE) $(shell sed -n 's/^like: *\([a-z0-9-]*\).*/\1/p' notebooks/profiles/$(PROFILE).yaml 2>&-))
EXPORTED := $(RESULTS)/$(PROFILE)/deployment.csv
TRAINING := 01_% 02_% 03_% 06_% 08_% 10_%
# Our notebooks, not whatever lies in the folder: those of PROFILE, and all
listed = $(or $(shell $(RUN) scripts.notebooks $1),$(error error: there is no list of notebooks, see above))
LISTED = $(call listed,--profile $(PROFILE) --under $(EXECUTED))
OURS = $(call listed,--committed)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.SECONDEXPANSION:
.PHONY: help reproduce train figures test test-cluster test-browser test-binder plan bench bench-scale data lab site \
	notebooks reference faults lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*##/ { printf "%-14s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

reproduce: $(READY) ## execute PROFILE's notebooks in order, which train what is missing, and print the table of claims
	$(if $(BUDGET)$(CLUSTER),@$(MAKE) --no-print-directory train)
	@$(MAKE) --keep-going --no-print-directory $(LISTED)
	@$(RUN) sdd_utils claims --profile $(PROFILE) --results $(RESULTS)
	@echo; echo "Notebooks and figures: $(RESULTS)/$(PROFILE)"

# The bar of a notebook that trains is shown; a notebook that fails is named, and the others are executed all the same.
$(EXECUTED)/%.ipynb: notebooks/$$(notdir $$*).ipynb $$(SETTINGS) $$(PACKAGE) $(READY) \
		$$(if $$(filter 04_cost,$$(notdir $$*)),$(EXPORTED))
	@echo "$(PROFILE): $*"
	@SDD_LOG_SECONDS=5 $(RUN) scripts.execute $< $@ \
		-p profile $(PROFILE) -p dataset "$(filter-out .,$(patsubst %/,%,$(dir $*)))" \
		-p results $(if $(filter results/runs,$(RESULTS)),runs,$(abspath $(RESULTS))) \
		$(if $(filter $(TRAINING),$(notdir $*)),-p device $(DEVICE) $(if $(WORKERS),-p workers $(WORKERS)))

$(EXPORTED): benchmarks/deploy.py $$(SETTINGS) $$(PACKAGE) $(READY)
	@$(RUN) benchmarks deploy --profile $(PROFILE) --results $(RESULTS)

train: $(READY) ## train PROFILE ahead of the notebooks (for BUDGET=9m at most; on DEVICE=cuda; on CLUSTER=host:port)
	$(RUN) sdd_utils run --profile $(PROFILE) --results $(RESULTS) --device $(DEVICE) $(if $(WORKERS),--workers $(WORKERS)) \
		$(if $(BUDGET),--time-budget $(BUDGET)) $(if $(CLUSTER),--cluster $(CLUSTER))

figures: $(READY) ## draw the figures, and judge the claims, from the committed reference results; trains nothing
	$(RUN) scripts.figures

test: $(READY) ## ruff, pytest, and the committed notebooks against the committed results (nbval)
	$(RUN) ruff check --extend-exclude notebooks . $(OURS)
	$(RUN) ruff format --check --extend-exclude notebooks . $(OURS)
	$(RUN) pytest --numprocesses 2 --dist loadscope --no-loadscope-reorder --nbval --nbval-kernel-startup-timeout 3600 \
		tests $(OURS)

test-cluster: $(READY) ## the same results on Ray clusters of this machine, whose nodes, workers and drivers die; minutes
	$(RUN) pytest -m cluster tests/cluster

test-browser: $(READY) ## the charts in JupyterLab, and the pages of the site, in Chromium, where there is one
	$(RUN) pytest -m browser tests/browser

test-binder: $(READY) ## the notebooks in the environment that binder/ describes, which has no torch
	$(RUN) pytest -m binder tests/binder

plan: $(READY) ## what PROFILE would take on this machine (DEVICE=cuda for its GPU; DEVICES=1,8,64 for so many); trains nothing
	$(RUN) benchmarks plan --profile $(PROFILE) --device $(DEVICE) $(if $(DEVICES),--devices $(DEVICES))

bench: $(READY) ## our training beside the conventional way, on DEVICE with the networks of PROFILE; results/reference/bench
	$(RUN) benchmarks speed --profile $(PROFILE) --device $(DEVICE)

bench-scale: $(READY) ## throughput with more workers, here and on Ray, and what the runner costs; results/reference/bench
	$(RUN) benchmarks scale --profile $(PROFILE) --device $(DEVICE)

data: $(READY) ## download DATASET (mnist, cifar10, cifar100, cifar10n, …) into data or $SDD_DATA, and verify it
	$(RUN) sdd_utils data --dataset $(DATASET)

lab: $(READY) ## JupyterLab on notebooks/
	$(RUN) jupyterlab notebooks

site: $(READY) ## README, notebooks and their charts as static pages: build/site/index.html
	@$(RUN) scripts.site

notebooks: $(READY) ## execute the committed notebooks in place, on the committed results
	$(RUN) nbconvert --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False $(OURS)

reference: $(READY) ## make this machine's finished runs of PROFILE the committed reference (ONLY=seed=0: add these to it)
	$(RUN) scripts.publish --profile $(PROFILE) --results $(RESULTS) $(if $(ONLY),--only $(ONLY))

faults: $(READY) ## disturb N (default: 200) real sweeps in every way, compare, and record it in results/reference/faults
	$(VENV)/bin/python tests/faults/inject.py --faults $(N) --record results/reference/faults

lock: $(READY) ## choose the versions in requirements.lock anew
	$(COMPILE) pyproject.toml --all-extras --upgrade -o requirements.lock
	$(COMPILE) --group analysis --constraint requirements.lock -o binder/requirements.txt

clean: ## remove this machine's runs
	@[ ! -L results/runs ] || echo "results/runs is a link, which is removed; the runs are left in $$(readlink -f results/runs)"
	rm -rf results/runs

# rfc3987-syntax checks international addresses, for which nothing here asks. Ray imports it by way of jsonschema in every
# process of a cluster, and it takes a second, three times as long as all the rest of Ray.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=python3.11 …")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check uv==$(UV)
	$(VENV)/bin/uv pip install --quiet --compile-bytecode --python $(VENV) -r requirements.lock
	$(VENV)/bin/uv pip uninstall --quiet --python $(VENV) rfc3987-syntax
	$(VENV)/bin/uv pip install --quiet --python $(VENV) --no-deps --editable .
	@touch $@
