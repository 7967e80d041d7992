PYTHON ?= python3.11
STORE ?= sqlite:///$(CURDIR)/mlflow.db
DEMO ?= demo_data
ROUTER ?= models:/adaptf-router@production
KEPT ?= $(CURDIR)/kept

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export MLFLOW_TRACKING_URI := $(STORE)
export MLFLOW_DISABLE_TELEMETRY := true
export MLFLOW_ALLOW_PICKLE_DESERIALIZATION := false
export PYTHONUNBUFFERED := 1

.PHONY: install demo check test lint bench ui serve production digests clean

install: .venv/installed

# torch comes first and by its exact version: an open range can bring another build with it.
KERNELS := adaptf/models/kernels
.venv/installed: pyproject.toml constraints.txt $(KERNELS)/planes.cpp
	$(PYTHON) -m venv .venv
	pip install --quiet $$(grep '^torch==' constraints.txt)
	pip install --quiet --constraint constraints.txt --editable .[dev]
	touch $@

demo: install
	python -m adaptf.demo --folder $(DEMO)
	mlflow run . -e main --env-manager local -P preset=demo -P data.root=$(DEMO)/tau \
		-P audioset.root=$(DEMO)/audioset -P predict.files=$(DEMO)/tau/evaluation_set
	@echo "Open the MLflow UI with: make ui"

# Each process of pytest takes the tests of one file after the other, on one core. They are one more than there are cores, as many
# tests wait for servers.
PROCESSES = $(shell expr 1 + $$(getconf _NPROCESSORS_ONLN))
PYTEST = OMP_NUM_THREADS=1 pytest --numprocesses $(PROCESSES) --dist loadfile
# Arithmetic of older processors (oneDNN's is OpenVINO's too).
PROCESSORS := ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=default

# What is worth asking before each commit.
check: install lint
	$(PYTEST) -m "not slow"

test: install lint
	$(PYTEST)
	for processor in $(PROCESSORS); do env $$processor $(PYTEST) -m arithmetic || exit; done

lint: install
	ruff check .
	ruff format --check .
	lint-imports
	mypy

# The short benchmarks, each ratio beside the one that was kept last; KEEP=yes keeps these.
bench: install
	pip install --quiet --constraint constraints.txt --editable .[benchmark]
	python benchmarks/short.py $(if $(KEEP),--keep)

ui: install
	mlflow ui --host 127.0.0.1 --port 5000 --backend-store-uri $(STORE)

# The router in production, at port 5001. It takes up what is promoted, and starts from its copy on disk where the store is away.
serve: install
	python -m adaptf.mlproject.serve --model_uri $(ROUTER) --keep $(KEPT)

# What docs/production.md describes, with podman: images, store, a training that is killed once, promotion, router, rollback.
# It brings the engine where it is missing, which root on Debian may.
production: install
	pip install --quiet --constraint constraints.txt --editable .[docker]
	python docker/production/trial.py

# Lines for docker/.env that name the images of others by the digests that the image registries tell now.
digests:
	@docker/digests.sh

# Builds and caches only. The store (mlflow.db and its artifacts) goes after a question that is answered with 'yes'.
clean:
	rm -rf .venv build $(KERNELS)/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info cache kept work $(DEMO)
	@if [ -e mlflow.db ] || [ -e mlruns ] || [ -e mlartifacts ]; then \
		printf "Delete the MLflow store too, with all runs and models (mlflow.db, mlruns, mlartifacts)? [yes/no] "; \
		read answer || answer=no; \
		if [ "$$answer" = yes ]; then rm -rf mlflow.db* mlruns mlartifacts; else echo "The store is kept."; fi; \
	fi
