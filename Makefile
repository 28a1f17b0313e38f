# Everything installs into .venv; `make help` lists the first targets, `make help-all` all.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
TARGET ?= cpu-fp32
MODEL ?=
CHECKPOINT ?=
BENCH ?=
ARTIFACT ?=
FAULTS ?=
HOSTILE ?=
RECIPE ?=
PYTEST ?=
ONLY ?=
ZOO ?=
MINUTES ?= 10
PORT := $${NIM_HTTP_API_PORT:-8000}
# What Triton computes is what was exported for the CPU (TARGET=triton).
SUFFIX := $(if $(filter cpu-fp32 triton,$(TARGET)),,-$(TARGET))
RANK_DIR := artifacts/rank$(SUFFIX)
EMBED_DIR := artifacts/embed$(SUFFIX)
VISION_DIR := artifacts/vl$(SUFFIX)
VISION_EMBED_DIR := artifacts/vl-embed$(SUFFIX)
SERVED := $(if $(filter vl,$(MODEL)),$(VISION_DIR),$(RANK_DIR))

BIN := .venv/bin
INSTALLED := .venv/.installed
PIP := $(BIN)/pip --disable-pip-version-check install --progress-bar off -c constraints.txt

.PHONY: help help-all install serve serve-embed dev test test-heavy test-anywhere check test-clients test-contract test-page test-faults hostile soak overload audit docs recipe check-pubmedqa check-ray check-sky embedded check-1b check-vl check-real check-minilm check-zoo check-optimum check-triton check-tensorrt check-cuda check-deploy check-network check-replicas check-all test-gpu bench bench-gpu profile image-test build run clean

# A line of text behind ## is for newcomers, behind ### for the rest; #@ begins a group.
help:
	@awk -F'  ## ' '/^[a-z0-9-]+:.*  ## / { sub(/:.*/, "", $$1); printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

#@ Install and serve

install: $(INSTALLED)  ## create .venv with everything that development needs

$(INSTALLED): pyproject.toml rerank_client/pyproject.toml constraints.txt
	@echo "installing into .venv (the first time takes a few minutes)"
	# Without Debian's python3-venv the first command leaves an environment that has no pip.
	test -x $(BIN)/pip || $(PYTHON) -m venv --clear .venv
	# torch first and by name: where a CPU build is to be had, this is the line that finds it.
	$(PIP) "$$(grep '^torch==' constraints.txt)"
	$(PIP) --editable ./rerank_client --editable '.[serve-cpu,openvino,vision,export,recipe,dev]'
	touch $@

# Exported again only when the checkpoint is newer, not when something else was installed.
$(RANK_DIR)/manifest.json: $(wildcard embedded/rank/*.json embedded/rank/*.safetensors) | $(INSTALLED)
	@$(BIN)/rerank-export export embedded/rank --out $(RANK_DIR) --target $(TARGET:triton=cpu-fp32) --profile tiny-rerank-v1

$(EMBED_DIR)/manifest.json: $(wildcard embedded/embed/*.json embedded/embed/*.safetensors) | $(INSTALLED)
	@$(BIN)/rerank-export export embedded/embed --out $(EMBED_DIR) --target $(TARGET) --profile tiny-embed-v1

# Random weights, written anew from their seed: MODEL=vl.
$(VISION_DIR)/manifest.json: tests/tiny_vision.py | $(INSTALLED)
	@$(BIN)/python -m checks.tiny_vision build/vl
	$(BIN)/rerank-export export build/vl --out $(VISION_DIR) --target $(TARGET) --profile tiny-rerank-vl

$(VISION_EMBED_DIR)/manifest.json: tests/tiny_vision.py | $(INSTALLED)
	@$(BIN)/python -m checks.tiny_vision --embed build/vl-embed
	$(BIN)/rerank-export export build/vl-embed --out $(VISION_EMBED_DIR) --target $(TARGET) --profile tiny-embed-vl

serve: $(SERVED)/manifest.json  ## export the embedded reranker, prove it, serve it on port 8000 (MODEL=vl: a random one of texts and images)
	@$(if $(filter triton,$(TARGET)),NIM_MODEL_PROFILE=triton) exec $(BIN)/rerank-serve --rank $(SERVED)

serve-embed: $(EMBED_DIR)/manifest.json  ## the same for the embedded embedder
	@exec $(BIN)/rerank-serve --embed $(EMBED_DIR)

dev: $(INSTALLED)  ## serve a mock without weights; restart when the code changes
	@ENABLE_MOCK_INFERENCE=1 exec $(BIN)/uvicorn --factory server.app:create_app --port $(PORT) --reload

#@ Check a change

check: $(INSTALLED)  ## formatting, lint and types
	@$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	# The client's own promise is older than the repository's.
	$(BIN)/mypy --python-version 3.10 --package rerank_client

# Two workers; one thread each, as threads of one would wait for the cores of the other.
test: $(INSTALLED)  ## the tests, under five minutes on two cores: make test PYTEST="-p randomly"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal $(PYTEST)

test-heavy: $(INSTALLED)  ### the tests that take many seconds each, which make test leaves out
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m heavy $(PYTEST)

test-anywhere: $(INSTALLED)  ### the tests on one core, beside other work, in random order, and not as root
	@$(BIN)/python -m checks.anywhere

docs: $(INSTALLED) .venvs/docs/.installed  ## write the generated parts of docs/, build the site, check its links
	@$(BIN)/python -m tools.write_docs
	$(BIN)/python -m tests.zoo.table
	$(BIN)/python -m checks.site

check-all: $(INSTALLED)  ## the heavy checks, one after the other, and a table (an hour): make check-all ONLY="soak overload"
	@$(BIN)/python -m checks.all $(ONLY)

# An environment of its own for a check, made anew when its pins change.
.venvs/%/.installed: checks/requirements/%.txt constraints.txt | $(INSTALLED)
	@echo "installing into .venvs/$* (the first time takes a few minutes)"
	$(BIN)/python -m venv --clear .venvs/$*
	.venvs/$*/bin/pip --disable-pip-version-check install --progress-bar off -r $<
	touch $@

#@ Check the server

test-clients: $(RANK_DIR)/manifest.json $(EMBED_DIR)/manifest.json $(VISION_DIR)/manifest.json $(VISION_EMBED_DIR)/manifest.json  ### real clients, each in its own environment
	@$(BIN)/python -m clients.run

test-contract: .venvs/contract/.installed  ### schemathesis against /openapi.json, on every route
	@$(BIN)/python -m checks.contract

test-page: .venvs/page/.installed $(RANK_DIR)/manifest.json $(EMBED_DIR)/manifest.json $(VISION_DIR)/manifest.json $(VISION_EMBED_DIR)/manifest.json  ### the page in headless Chromium
	@$(BIN)/python -m checks.page

test-faults: $(RANK_DIR)/manifest.json $(EMBED_DIR)/manifest.json $(VISION_DIR)/manifest.json  ### faults against a server: FAULTS="--url http://…"
	@$(BIN)/python -m checks.faults --rank $(RANK_DIR) --embed $(EMBED_DIR) --vision $(VISION_DIR) $(FAULTS)

hostile: $(RANK_DIR)/manifest.json $(EMBED_DIR)/manifest.json  ### health and memory under hostile bodies, on every surface: HOSTILE="--only /rerank"
	@$(BIN)/python -m checks.hostile --rank $(RANK_DIR) --embed $(EMBED_DIR) $(HOSTILE)

soak: $(RANK_DIR)/manifest.json $(EMBED_DIR)/manifest.json $(VISION_DIR)/manifest.json  ### mixed load for MINUTES (10), then of images for as long, every answer checked
	@$(BIN)/python -m checks.soak --rank $(RANK_DIR) --embed $(EMBED_DIR) --minutes $(MINUTES)
	$(BIN)/python -m checks.soak_images --vision $(VISION_DIR) --minutes $(MINUTES)

overload: $(RANK_DIR)/manifest.json  ### four times the sustainable load: waits and refusals
	@$(BIN)/python -m checks.overload --rank $(RANK_DIR)

check-network: $(RANK_DIR)/manifest.json $(EMBED_DIR)/manifest.json  ### nothing calls out: server, exporter and recipe in networks of their own
	@$(BIN)/python -m checks.network

check-replicas: $(RANK_DIR)/manifest.json  ### how many replicas a load needs, computed and replayed
	@$(BIN)/python -m checks.replicas $(RANK_DIR)

check-deploy: $(INSTALLED)  ### manifests, alert rules, metrics: kubectl, promtool and Prometheus read them
	@$(BIN)/python -m checks.deploy

#@ Check the exporter

check-zoo: $(INSTALLED)  ### tiny checkpoints of all families and layouts, against the loaders that users have
	@$(BIN)/python -m checks.zoo $(ZOO)

check-minilm: .venvs/minilm/.installed  ### real all-MiniLM-L6-v2, served, against sentence-transformers
	@$(BIN)/python -m checks.minilm

check-optimum: .venvs/optimum/.installed  ### the graph that optimum makes of a BERT cross-encoder, against ours
	@$(BIN)/python -m checks.optimum

check-1b: $(INSTALLED)  ### export, prove and serve the exact 1B shape once (16 GB of memory)
	@$(BIN)/python -m checks.one_billion

check-vl: $(INSTALLED)  ### export, prove and open the vision reranker's exact shape, fp32 and int8 (24 GB of memory, an hour or two)
	@$(BIN)/python -m checks.vision

check-real: $(INSTALLED)  ### the same for real weights: make check-real CHECKPOINT=DIR
	@$(BIN)/python -m checks.real "$(CHECKPOINT)"

check-triton: .venvs/tritonserver/.installed $(RANK_DIR)/manifest.json  ### a real tritonserver: our model in it, our server before it
	@$(BIN)/python -m checks.tritonserver $(RANK_DIR)

check-tensorrt: .venvs/tensorrt-10/.installed .venvs/tensorrt-11/.installed  ### our calls of TensorRT against its real bindings, our graphs against what its parser says
	@$(BIN)/python -m checks.tensorrt_names
	$(BIN)/python -m checks.tensorrt_graphs

check-cuda: .venvs/cuda/.installed .venvs/cuda-headers/.installed  ### the real onnxruntime-gpu under a fake CUDA, on a machine without a GPU
	@$(BIN)/python -m checks.cuda

#@ Fine-tune

recipe: $(INSTALLED)  ## the recipe from corpus to proven artifact, small and offline (under 10 minutes): RECIPE=--force
	@$(BIN)/rerank run -c small --to export $(RECIPE)

check-pubmedqa: $(INSTALLED)  ### fine-tune on PubMedQA's questions and measure: make check-pubmedqa PAIRS=FILE
	@$(BIN)/python -m checks.pubmedqa "$(PAIRS)" output/pubmedqa

.venv/.ray: pyproject.toml constraints.txt | $(INSTALLED)
	@$(PIP) --editable '.[ray]'
	touch $@

check-ray: .venv/.ray $(RANK_DIR)/manifest.json $(EMBED_DIR)/manifest.json  ### mining and scoring on two Ray workers, against one process
	@$(BIN)/python -m checks.ray_workers $(RANK_DIR) $(EMBED_DIR)

check-sky: $(INSTALLED) .venvs/skypilot/.installed  ### the cluster's job, read by SkyPilot itself
	@$(BIN)/python -m checks.skypilot

embedded: $(INSTALLED)  ### train the embedded checkpoints again (about an hour)
	@$(PIP) -r embedded/requirements.txt
	$(BIN)/python -m embedded

#@ Measure

bench: $(INSTALLED)  ## speed and fidelity beside other servers (under 90 minutes): make bench BENCH=--quick
	@$(BIN)/python -m benchmarks $(BENCH)

profile: $(if $(ARTIFACT),$(INSTALLED),$(RANK_DIR)/manifest.json)  ## where the time of a request goes, as a picture: make profile ARTIFACT=DIR
	@$(BIN)/python -m benchmarks.stages $(or $(ARTIFACT),$(RANK_DIR))

# Made by the bench when a candidate is due, so that one that cannot be installed stops no other.
.venvs/bench-%/.installed: benchmarks/requirements/%.txt | $(INSTALLED)
	@echo "installing into .venvs/bench-$* (the first time takes a few minutes)"
	$(BIN)/python -m venv --clear .venvs/bench-$*
	.venvs/bench-$*/bin/pip --disable-pip-version-check install --progress-bar off -r $<
	touch $@

#@ On a GPU

# On a machine with a card. The system's own Python, as .venv has packages for CPUs; nothing is installed.
GPU_PYTHON ?= python3
GPU ?=

test-gpu:  ### what only a GPU can show, as one table: make test-gpu GPU=--model=1b
	@$(GPU_PYTHON) -m checks.gpu $(GPU)

bench-gpu:  ### ours beside PyTorch on one GPU: make bench-gpu GPU=--model=1b
	@$(GPU_PYTHON) -m benchmarks.gpu $(GPU)

#@ Images

build: $(RANK_DIR)/manifest.json  ## the CPU image with the embedded reranker inside (needs Docker)
	docker build -f Dockerfile.cpu --build-arg MODEL_DIR=$(RANK_DIR) -t open-rerank:cpu .

run:  ## run that image (needs Docker)
	docker run --rm -p $(PORT):8000 open-rerank:cpu

image-test: $(RANK_DIR)/manifest.json $(EMBED_DIR)/manifest.json  ### build and run Dockerfile.cpu without Docker (root, Debian)
	@$(BIN)/python -m tools.image_test $(RANK_DIR) $(EMBED_DIR)

#@ Housekeeping

audit: .venvs/audit/.installed  ### known advisories for every pinned package (asks PyPI)
	@.venvs/audit/bin/pip-audit --strict --disable-pip --no-deps --requirement constraints.txt

clean:  ## remove what was exported and built; .venv and build/gpu stay
	rm -rf artifacts dist $(filter-out build/gpu,$(wildcard build/*))

help-all:  ## all targets, by group
	@awk -F'  ###? ' '/^#@ / { printf "%s%s\n", gap, substr($$0, 4); gap = "\n" }
	/^[a-z0-9-]+:.*  ###? / { sub(/:.*/, "", $$1); printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
