# Everything installs into .venv; `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
TARGET ?= cpu-fp32
CHECKPOINT ?=
PORT := $${NIM_HTTP_API_PORT:-8000}
RANK_DIR := artifacts/rank$(if $(filter cpu-fp32,$(TARGET)),,-$(TARGET))

BIN := .venv/bin
INSTALLED := .venv/.installed
PIP := $(BIN)/pip --disable-pip-version-check install --progress-bar off -c constraints.txt

.PHONY: help install serve dev test check test-clients docs embedded check-1b check-real image-test build run clean

help:  ## this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / { printf "%-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED)  ## create .venv with everything that development needs

$(INSTALLED): pyproject.toml constraints.txt
	@echo "installing into .venv (the first time takes a few minutes)"
	# Without Debian's python3-venv the first command leaves an environment that has no pip.
	test -x $(BIN)/pip || $(PYTHON) -m venv --clear .venv
	# torch first and by name: where a CPU build is to be had, this is the line that finds it.
	$(PIP) "$$(grep '^torch==' constraints.txt)"
	$(PIP) --editable '.[serve-cpu,export,dev]'
	touch $@

# Exported again only when the checkpoint is newer, not when something else was installed.
$(RANK_DIR)/manifest.json: $(wildcard embedded/rank/*.json embedded/rank/*.safetensors) | $(INSTALLED)
	@$(BIN)/rerank-export export embedded/rank --out $(RANK_DIR) --target $(TARGET) --profile tiny-rerank-v1

serve: $(RANK_DIR)/manifest.json  ## export the embedded checkpoint, prove it, serve it
	@exec $(BIN)/rerank-serve --rank $(RANK_DIR)

dev: $(INSTALLED)  ## serve the mock (no weights) and restart when the code changes
	@ENABLE_MOCK_INFERENCE=1 exec $(BIN)/uvicorn --factory server.app:create_app --port $(PORT) --reload

test: $(INSTALLED)  ## the tests
	@$(BIN)/python -m pytest

check: $(INSTALLED)  ## formatting, lint and types
	@$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	# The client's own promise is older than the repository's.
	$(BIN)/mypy --python-version 3.10 --package rerank_client

test-clients: $(RANK_DIR)/manifest.json  ## real clients, each in its own environment
	@$(BIN)/python -m clients.run

docs: $(INSTALLED)  ## write the generated parts of the README
	@$(BIN)/python -m tools.write_readme

embedded: $(INSTALLED)  ## train the embedded checkpoint again (about an hour)
	@$(PIP) -r embedded/requirements.txt
	$(BIN)/python -m embedded

check-1b: $(INSTALLED)  ## export, prove and serve the exact 1B shape once (16 GB of memory)
	@$(BIN)/python -m checks.one_billion

check-real: $(INSTALLED)  ## the same for real weights: make check-real CHECKPOINT=DIR
	@$(BIN)/python -m checks.real "$(CHECKPOINT)"

image-test: $(RANK_DIR)/manifest.json  ## build and run Dockerfile.cpu without Docker (root, Debian)
	@$(BIN)/python -m tools.image_test $(RANK_DIR)

build: $(RANK_DIR)/manifest.json  ## the CPU image with the exported model inside (needs Docker)
	docker build -f Dockerfile.cpu --build-arg MODEL_DIR=$(RANK_DIR) -t open-rerank:cpu .

run:  ## run that image (needs Docker)
	docker run --rm -p $(PORT):8000 open-rerank:cpu

clean:  ## remove what was exported and built; .venv stays
	rm -rf artifacts build dist
