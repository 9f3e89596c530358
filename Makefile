# AnyKey: every step a person or CI takes is a target here; `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# A value as one word of the shell, whatever is in it, as one word of make, and as one file of make. (FLAGS are for the shell to split.)
empty :=
quote = '$(subst ','\'',$(1))'
as_word = $(subst $(empty) $(empty),?,$(1))
as_file = $(subst $(empty) $(empty),\ ,$(1))

# What the steps work on; override on the command line: make train DATA='my/*.tar' CONFIG=my.toml
# With data or a corpus of your own, runs and indexes go to runs/mine and indexes/mine unless you name others.
DEMO_DATASET := data/shapesworld
DATA ?= $(DEMO_DATASET)/train/*.tar
IS_DEMO_DATA := $(filter $(DEMO_DATASET)/%,$(call as_word,$(DATA)))
VAL_DATA ?= $(if $(IS_DEMO_DATA),$(DEMO_DATASET)/val/*.tar)
CONFIG ?= $(if $(IS_DEMO_DATA),training/recipes/shapesworld.toml)
CORPUS ?= $(DEMO_DATASET)
IS_DEMO_CORPUS := $(filter $(DEMO_DATASET),$(call as_word,$(CORPUS)))
WHOSE := $(if $(IS_DEMO_DATA),$(if $(IS_DEMO_CORPUS),demo,mine),mine)
RUN ?= runs/$(WHOSE)
CHECKPOINT ?= $(RUN)/best
INDEX ?= indexes/$(WHOSE)
DATASET ?= $(DEMO_DATASET)
PORT ?= 8000
URL ?= http://127.0.0.1:$(PORT)
REPORT ?= $(RUN)/benchmark
PEERS ?= .venv-peers
CLIENTS ?= .venv-clients

.PHONY: help
help: ## Show this list
	@echo "usage: make TARGET [VARIABLE=value]"
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | awk -F'\t' '{printf "  %-17s  %s\n", $$1, $$2}'

.PHONY: demo
demo: port-is-free data train index ## Everything on drawn scenes: train, index, serve on PORT, measure; DEMO_EXIT=1 stops after the table
	@$(BIN)/anykey-serve --checkpoint $(call quote,$(CHECKPOINT)) --index $(call quote,$(INDEX)) --port $(call quote,$(PORT)) --log-level warning --writable & server=$$!; \
	trap 'kill $$server 2>/dev/null || true; wait $$server 2>/dev/null || true' EXIT INT TERM; \
	$(BIN)/anykey-bench quality --dataset $(call quote,$(DATASET)) --url $(call quote,$(URL)) --output $(call quote,$(REPORT)); \
	if [ "$${DEMO_EXIT:-0}" = 1 ]; then exit 0; fi; \
	echo Serving at $(call quote,$(URL)) "until Ctrl-C: open it in a browser to search with words and pictures."; \
	echo "Or search, put a key, and search again, from another terminal:"; \
	json="-H 'content-type: application/json' -d"; star='"text": "a large pink star on a white background"'; \
	echo "  curl -s" $(call quote,$(URL)/search) "$$json '{$$star, \"k\": 3}'"; \
	echo "  curl -s -X PUT" $(call quote,$(URL)/keys/my-star) "$$json '{$$star}'"; \
	echo "  curl -s" $(call quote,$(URL)/search) "$$json '{$$star, \"k\": 3}'"; \
	wait $$server

# Before minutes of training, and so that no other server is measured in place of ours.
.PHONY: port-is-free
port-is-free: setup
	@$(BIN)/python -c 'import socket, sys; socket.create_server(("127.0.0.1", int(sys.argv[1])))' $(call quote,$(PORT)) 2>/dev/null \
	|| { echo port $(call quote,$(PORT)) "is in use: choose another with make demo PORT=..." >&2; exit 1; }

.PHONY: setup
setup: $(INSTALLED) ## Create .venv and install AnyKey into it (FAISS for the GPU when an NVIDIA driver answers)

$(INSTALLED): pyproject.toml constraints.txt
	@$(call quote,$(PYTHON)) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "AnyKey needs Python 3.11 or newer, found " + sys.version.split()[0] + "; set PYTHON=")'
	test -x $(BIN)/python || $(call quote,$(PYTHON)) -m venv $(VENV)
	engines=cpu,milvus-lite; if nvidia-smi >/dev/null 2>&1; then engines=gpu,milvus; fi; \
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[$$engines,ray,sweep,dev]"
	touch $@

.PHONY: data
data: setup ## Draw the demo dataset (ShapesWorld) unless it is there
	$(BIN)/anykey-bench shapesworld --output $(call quote,$(DEMO_DATASET))

.PHONY: train
train: setup $(if $(IS_DEMO_DATA),data) ## Train an encoder: DATA= VAL_DATA= CONFIG= RUN= TRAIN_FLAGS=
	$(BIN)/anykey-train $(if $(CONFIG),--config $(call quote,$(CONFIG))) --data $(call quote,$(DATA)) $(if $(VAL_DATA),--val-data $(call quote,$(VAL_DATA))) --output $(call quote,$(RUN)) $(if $(filter demo,$(WHOSE)),--overwrite) $(TRAIN_FLAGS)

.PHONY: index
index: setup $(if $(IS_DEMO_CORPUS),data) ## Embed a corpus and publish its index: CORPUS= CHECKPOINT= INDEX=
	$(BIN)/anykey-index build --corpus $(call quote,$(CORPUS)) --checkpoint $(call quote,$(CHECKPOINT)) --output $(call quote,$(INDEX))

.PHONY: serve
serve: setup ## Serve an index: CHECKPOINT= INDEX= PORT=
	$(BIN)/anykey-serve --checkpoint $(call quote,$(CHECKPOINT)) --index $(call quote,$(INDEX)) --port $(call quote,$(PORT))

.PHONY: bench
bench: setup ## Measure a running service through its endpoint: DATASET= URL= REPORT=
	$(BIN)/anykey-bench quality --dataset $(call quote,$(DATASET)) --url $(call quote,$(URL)) --output $(call quote,$(REPORT))

.PHONY: lint
lint: setup ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: test
test: setup redis-server chromium clients ## Run the tests, at most four processes: one a core, and one more, as many tests wait
	ANYKEY_CLIENTS=$(call quote,$(CLIENTS)) OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses $$(($$(getconf _NPROCESSORS_ONLN) + 1)) --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: test-slow
test-slow: setup redis-server chromium ## Run the slow proofs: memory of the loss, runs killed everywhere, all counts of processes
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[oracle]"
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -m slow --timeout 3600

.PHONY: perf-train
perf-train: setup ## Measure the trainer against open_clip's own, side by side (PERF_FLAGS=), into docs/results/
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[perf]"
	$(BIN)/python -m benchmarks.training_speed --output docs/results/training-speed.md $(PERF_FLAGS)

.PHONY: perf-index
perf-index: setup peers ## Measure an index of a million keys beside others (PERF_FLAGS=), an hour, into docs/results/
	$(BIN)/python -m benchmarks.index_speed --peers $(call quote,$(PEERS)) --output docs/results/index.md $(PERF_FLAGS)

.PHONY: perf-encoder
perf-encoder: setup peers ## Measure how fast items are embedded beside others (PERF_FLAGS=), half an hour, into docs/results/
	$(BIN)/python -m benchmarks.encoder_speed --peers $(call quote,$(PEERS)) --output docs/results/encoders.md $(PERF_FLAGS)

.PHONY: perf-build-memory
perf-build-memory: setup ## Measure what builds hold in memory, of one and five million keys (PERF_FLAGS=), hours, into docs/results/
	$(BIN)/python -m benchmarks.build_memory --output docs/results/memory.md $(PERF_FLAGS)

.PHONY: perf-fold
perf-fold: setup ## Measure searches while live changes are folded (PERF_FLAGS=), a quarter of an hour, into docs/results/
	$(BIN)/python -m benchmarks.fold_speed --output docs/results/folding.md $(PERF_FLAGS)

.PHONY: perf-backup
perf-backup: setup ## Measure how long a backup of a million keys takes, and to have it back (PERF_FLAGS=), into docs/results/
	$(BIN)/python -m benchmarks.backup_times --output docs/results/backup.md $(PERF_FLAGS)

.PHONY: perf-service
perf-service: setup peers ## Measure the service beside others (PERF_FLAGS=), half an hour, into docs/results/
	PYTHONWARNINGS=ignore $(BIN)/python -m benchmarks.service_speed --peers $(call quote,$(PEERS)) --output docs/results/service.md $(PERF_FLAGS)

.PHONY: perf-requests
perf-requests: setup ## Measure a request beside an older checkout, in turns: BEFORE= CHECKPOINT= (PERF_FLAGS=)
	$(BIN)/python -m benchmarks.request_cost --before $(call quote,$(BEFORE)) --checkpoint $(call quote,$(CHECKPOINT)) --output docs/results/requests.md $(PERF_FLAGS)

.PHONY: chaos
chaos: setup redis-server ## Break what a service stands on, under load, in twenty minutes (CHAOS_FLAGS='--overload-s 60': ten), into docs/results/
	PYTHONWARNINGS=ignore $(BIN)/python -m benchmarks.chaos --output docs/results/chaos.md $(CHAOS_FLAGS)

.PHONY: fuzz
fuzz: setup ## Give ever other bytes to what reads strangers' bytes, ten minutes (FUZZ_FLAGS=), into docs/results/
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[fuzz]"
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.fuzzing --output docs/results/fuzz.md $(FUZZ_FLAGS)

.PHONY: perf-page
perf-page: setup chromium ## Measure the search page in a browser: first paint, and scrolling 1,000 hits (PERF_FLAGS=), into docs/results/
	$(BIN)/python -m benchmarks.page_speed --output docs/results/page.md $(PERF_FLAGS)

# Others need other versions of what we use, so each has an environment of its own. clip-retrieval's models import
# pkg_resources, which newer versions of setuptools, that torch asks for, do not have.
.PHONY: peers
peers: $(call as_file,$(PEERS))/.installed

$(call as_file,$(PEERS))/.installed: $(wildcard benchmarks/peers/requirements-*.txt)
	for peer in autofaiss clip-retrieval infinity; do \
	$(call quote,$(PYTHON)) -m venv $(call quote,$(PEERS))/$$peer; \
	PYTHONWARNINGS=ignore $(call quote,$(PEERS))/$$peer/bin/python -m pip install --quiet --disable-pip-version-check --requirement benchmarks/peers/requirements-$$peer.txt; done
	PYTHONWARNINGS=ignore $(call quote,$(PEERS))/clip-retrieval/bin/python -m pip install --quiet --disable-pip-version-check --no-deps setuptools==69.5.1
	touch $(call quote,$@)

# Other people's clients, which the tests drive against our service. They need other versions of what we use, and so many
# libraries that their list is complete: nothing is resolved.
.PHONY: clients
clients: $(call as_file,$(CLIENTS))/.installed

$(call as_file,$(CLIENTS))/.installed: tests/clients/requirements.txt
	$(call quote,$(PYTHON)) -m venv $(call quote,$(CLIENTS))
	PYTHONWARNINGS=ignore $(call quote,$(CLIENTS))/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement tests/clients/requirements.txt
	touch $(call quote,$@)

# What the images install, to the byte; after a change of pyproject.toml or constraints.txt.
.PHONY: lock
lock: setup ## Write the hashes of all that the images install (docker/locks/)
	$(BIN)/python docker/lock.py

# Tools that look at what we install, in an environment of their own: they need other versions of what we use.
.PHONY: check-manifests
check-manifests: .venv-audit/.installed ## Render the Kubernetes manifests and hold them against Kubernetes' schemas (needs kubectl)
	for overlay in docker/kubernetes/overlays/*; do echo "$$overlay"; \
	kubectl kustomize "$$overlay" > .venv-audit/rendered.yaml && .venv-audit/bin/kubernetes-validate --strict .venv-audit/rendered.yaml; done

.PHONY: sbom
sbom: .venv-audit/.installed ## List what each image installs as a CycloneDX bill of materials, docker/locks/*.cdx.json
	for lock in cpu gpu train-cpu train-gpu; do \
	.venv-audit/bin/cyclonedx-py requirements --output-reproducible --output-file "docker/locks/$$lock.cdx.json" "docker/locks/$$lock.txt"; done

.PHONY: audit
audit: .venv-audit/.installed ## Look up known vulnerabilities of all that the images install (asks the package registry)
	for lock in cpu gpu train-cpu train-gpu; do .venv-audit/bin/pip-audit --strict --disable-pip --require-hashes --requirement "docker/locks/$$lock.txt"; done

.PHONY: secrets
secrets: .venv-audit/.installed ## Look for keys and passwords in what is committed; those in .secrets.baseline are examples
	git ls-files -z -- . ':!docker/locks' ':!docs/results' ':!tests/data' ':!tests/contract/openapi.json' | xargs -0 .venv-audit/bin/detect-secrets-hook --baseline .secrets.baseline

.venv-audit/.installed: Makefile
	$(call quote,$(PYTHON)) -m venv .venv-audit
	PYTHONWARNINGS=ignore .venv-audit/bin/python -m pip install --quiet --disable-pip-version-check cyclonedx-bom==7.5.0 detect-secrets==1.5.0 kubernetes-validate==1.37.0 pip-audit==2.10.1
	touch $@

.PHONY: study
study: setup ## Compare losses on photos: DATA= VAL_DATA= TEST_DATA= STUDY_FLAGS='--image-weights FILE'
	$(BIN)/anykey-train study --config training/recipes/gcl-study.toml --data $(call quote,$(DATA)) --val-data $(call quote,$(VAL_DATA)) --test-data $(call quote,$(TEST_DATA)) --output runs/study $(STUDY_FLAGS)

.PHONY: test-gpu
test-gpu: setup ## Run the tests that need an NVIDIA GPU
	$(BIN)/python -m pytest -m gpu -rs

# The cache is tested against a real Redis: Debian's package, when it is missing and we may install it. RUNLEVEL=1
# keeps the package from starting a server of its own; the tests start theirs.
.PHONY: redis-server
redis-server:
	@command -v redis-server >/dev/null || { sudo=; [ "$$(id -u)" = 0 ] || sudo='sudo -n'; \
	$$sudo apt-get update -qq && $$sudo env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends redis-server >/dev/null; } \
	|| echo "redis-server is missing and could not be installed: its tests will be skipped"

# The page at /docs is tried out in a real browser, which comes in the same way.
.PHONY: chromium
chromium:
	@{ command -v chromium && command -v chromedriver; } >/dev/null || { sudo=; [ "$$(id -u)" = 0 ] || sudo='sudo -n'; \
	$$sudo apt-get update -qq && $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null; } \
	|| echo "chromium is missing and could not be installed: its test will be skipped"

.PHONY: clean
clean: ## Remove everything that was built: .venv, demo data, runs, indexes, caches
	rm -rf $(VENV) .venv-audit $(call quote,$(PEERS)) $(call quote,$(CLIENTS)) $(call quote,$(DEMO_DATASET)) runs/demo indexes/demo .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
