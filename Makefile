# Every target sets up a .venv by itself, with what it needs; nothing else is touched.
# Another interpreter: make PYTHON=python3.13 demo
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SERVER := $(VENV)/.server
STAMP := $(VENV)/.installed
BENCH := $(VENV)/.benchmarks
KERNEL := server/bilstm_server/model/kernels/cpu
COMPILED := $(VENV)/.compiled
PROTO := bilstm/v1/encoder.proto

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test test-all check sanitize proto release lock licences sbom pin-images docs train parity bench faults soak clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# What pip says of large packages, and nothing else.
INSTALL := $(BIN)/python -m pip install --progress-bar off --disable-pip-version-check \
	--constraint constraints.txt --editable
LARGE := sed -Eun -e 's!^ *(Downloading|Using cached) (.*/)?([^-/]+)-.* \((.* [MG]B)\)$$!  \3, \4!p' \
	-e 's!^Installing collected.*!  unpacking …!p'

setup: $(STAMP) $(COMPILED) ## make the .venv, pinned by constraints.txt, and compile the CPU kernel

$(SERVER): pyproject.toml constraints.txt
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@echo "installing the server: torch is large, this takes a minute or more"
	@$(INSTALL) '.[server]' | $(LARGE)
	@touch $@

$(STAMP): $(SERVER)
	@echo "installing what tests and checks need"
	@$(INSTALL) '.[server,dev]' | $(LARGE)
	@touch $@

# Without a compiler the reference kernel runs.
$(COMPILED): $(SERVER) $(wildcard $(KERNEL)/*.*)
	@echo "compiling the CPU kernel"
	@library=$$($(BIN)/bilstm-server compile) && touch $@ && name=$${library##*/cpu-} \
		&& echo "compiled the CPU kernel: $${name%-*}" || echo "going on without it, several times slower"

demo: $(SERVER) $(COMPILED) ## start the server, encode the test utterances, check and report
	@$(BIN)/python examples/japanese_vowels/demo.py

serve: $(SERVER) $(COMPILED) ## serve the shipped model until Ctrl-C
	@$(BIN)/bilstm-server serve

# One more process than cores: tests wait for servers, too.
TEST = $(BIN)/python -m pytest --numprocesses $$(($$(nproc) + 1)) --dist worksteal
test: setup ## the tests, within ten minutes
	$(TEST) -m "not slow"

test-all: setup ## the tests, and those that take long
	$(TEST)

check: setup ## lint, types, generated stubs, breaking changes, docs and their links, import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@$(MAKE) --no-print-directory proto OUT=build/proto
	diff -r --exclude='*.proto' --exclude='__*' build/proto/bilstm/v1 proto/bilstm/v1
	$(BIN)/buf lint proto
	$(BIN)/buf breaking proto --against proto/released.json
	$(BIN)/hadolint Dockerfile
	$(BIN)/python -m supply.images --check
	$(BIN)/python -m supply.licences --check
	@$(BIN)/python -m supply.audit
	$(BIN)/python docs/tables.py --check
	$(MKDOCS) build --strict
	$(BIN)/lint-imports --no-cache

# Python itself leaks on purpose. A sanitizer ends the process: uncaptured (-s), its report is seen.
sanitize: setup ## the CPU kernel's tests with its memory and arithmetic watched, some five minutes
	LD_PRELOAD=$$($${CXX:-c++} -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 \
		$(BIN)/python -m pytest --sanitize -s tests/model/kernels/cpu/numbers

OUT ?= proto
proto: setup ## generate the stubs
	@mkdir -p $(OUT)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc --proto_path=proto \
		--python_out=$(OUT) --grpc_python_out=$(OUT) \
		--mypy_out=quiet:$(OUT) --mypy_grpc_out=quiet:$(OUT) $(PROTO)

release: setup ## make the protos of this state those that no change may break
	$(BIN)/buf build proto --exclude-source-info --output proto/released.json

# The torch of one more index: make lock TORCH_INDEX=https://download.pytorch.org/whl/cu126
lock: setup ## pin what the image installs, with hashes: requirements/
	$(BIN)/python -m supply.lock $(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX))

licences: setup ## write the licences of what the images have: docs/licences.md
	$(BIN)/python -m supply.licences

sbom: setup ## write each image's bill of materials to build/sbom, as CycloneDX
	@$(BIN)/python -m supply.sbom

pin-images: setup ## give each image in Dockerfile and compose the digest that its tag has today
	$(BIN)/python -m supply.images

# Its banner is about other software than this.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs

# Another port: make docs DOCS_ADDRESS=127.0.0.1:8001
DOCS_ADDRESS ?= 127.0.0.1:8000
docs: setup ## write the tables of docs/, and serve it as a site on http://127.0.0.1:8000
	$(BIN)/python docs/tables.py
	$(MKDOCS) serve --dev-addr $(DOCS_ADDRESS)

train: setup ## train the shipped model anew
	$(BIN)/python examples/japanese_vowels/train.py

parity: setup ## every kernel beside nn.LSTM: the largest differences, and the time; a minute
	@$(BIN)/python -m benchmarks.parity

$(BENCH): $(STAMP)
	@echo "installing what the operator is compared with"
	@$(INSTALL) '.[bench]' | $(LARGE)
	@touch $@

faults: setup ## attack a server over loopback, within ten minutes: what its callers could do to each other
	$(BIN)/python -m benchmarks.faults --check

SOAK_SECONDS ?= 600
soak: setup ## load a server for ten minutes: whether memory, descriptors or threads grow; SOAK_SECONDS=60 for less
	$(BIN)/python -m benchmarks.soak --seconds $(SOAK_SECONDS) --check

# Each runs even where the one before misses a target.
bench: setup $(BENCH) ## the operator against others, a CRF's paths, the server under load, streams, what metrics cost
	@missed=0; for part in operator tagger viterbi serving streaming overhead; do \
		$(BIN)/python -m benchmarks.$$part --check || missed=1; done; exit $$missed

clean: ## remove the .venv and everything generated
	rm -rf $(VENV) $(KERNEL)/compiled build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
