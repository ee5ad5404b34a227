# `make demo` and `make test` need only Python >= 3.11 and a network; see README.md.
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.microforge-installed
PIP_ARGS ?=
BUNDLE := build/microforge.mfb
IMAGE := build/demo.png
PROMPT := a red circle on a white background
SUITES := python
# The first of these that is new enough and can make environments.
PYTHON ?= $(shell for python in python3.12 python3.11 python3.13 python3 python; do \
	"$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo "$$python" && break; done)

.PHONY: help env demo test lint lint-kotlin audit external docs fuzz arm64 conformance clean test-python test-kotlin

help: ## list what make can do
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

env: $(STAMP) ## set up .venv with the package and all development tools

$(STAMP): pyproject.toml
	@test -x $(BIN)/python || test -n "$(PYTHON)" || { echo "error: no Python >= 3.11 with venv and pip found; install it (Debian, Ubuntu: apt install python3-venv) or run make PYTHON=/path/to/python" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -e '.[export,diffusers,dev]'
	@touch $@

$(BUNDLE)/manifest.json: $(STAMP) $(wildcard microforge/pretrained/* microforge/pretrained/student/*)
	$(BIN)/mf-export build --out $(BUNDLE) --force

demo: $(BUNDLE)/manifest.json ## export the shipped model, generate build/demo.png and print its path
	$(BIN)/mf-generate $(BUNDLE) "$(PROMPT)" --out $(IMAGE) --force

# One suite per language; each is a target `test-LANGUAGE`.
test: $(SUITES:%=test-%) ## run every test suite

test-python: $(STAMP)
	$(BIN)/python -m pytest

# JDK 17 and Maven; a fresh Maven repository fetches about 150 MB of them and of the Kotlin compiler.
MAVEN ?= mvn
MAVEN_ARGS ?= --batch-mode --quiet

test-kotlin: $(BUNDLE)/manifest.json ## the Kotlin runtime on the golden files and the built bundle
	@if command -v $(MAVEN) >/dev/null; then \
		cd runtimes/kotlin && $(MAVEN) $(MAVEN_ARGS) test -Dmicroforge.bundles="$(abspath $(BUNDLE))"; \
	elif [ "$(CI)" = true ]; then \
		echo "error: no $(MAVEN) found; install a JDK 17 and Maven (Debian, Ubuntu: apt install openjdk-17-jdk-headless maven)" >&2; exit 2; \
	else \
		echo "test-kotlin: skipped, no $(MAVEN) found; install a JDK 17 and Maven"; \
	fi

lint: $(STAMP) ## ruff, mypy --strict, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lint-kotlin: ## ktlint; needs a JDK 17 and Maven
	cd runtimes/kotlin && $(MAVEN) $(MAVEN_ARGS) antrun:run@ktlint

audit: $(STAMP) ## list the wheel's packages (SBOM) in build/audit and look up known vulnerabilities
	scripts/audit.sh build/audit $(BIN)/python

# Hours; a run that was interrupted goes on. EXTERNAL names some of: images onnx executorch mil.
EXTERNAL ?=
external: $(STAMP) ## run test suites of other projects on our code (docs/external)
	scripts/external.sh $(BIN) build/external $(EXTERNAL)

docs: $(STAMP) ## build the documentation site in build/site; fails on any warning
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

# A hundred thousand inputs for each reader of files from strangers: about half an hour (docs/reliability.md, "Formats").
FUZZ_RUNS ?= 100000

fuzz: $(STAMP) ## attack every reader of files with coverage-guided inputs
	$(BIN)/python -m tests.fuzz --runs $(FUZZ_RUNS)

# The bundle on emulated 64-bit Arm beside x86-64 (docs/benchmarks.md, "Arm"); needs qemu-user-static and a network.
# ARM64_BUNDLES may name more, such as one of --precision int8. benchmarks/results/arm64.json is such a result.
ARM64_BUNDLES ?= $(BUNDLE)
ARM64_RESULT ?= build/arm64/arm64.json

arm64: $(BUNDLE)/manifest.json ## compare the bundle on emulated 64-bit Arm with x86-64
	$(BIN)/python -m microforge_benchmarks.studies.arm64.cli $(ARM64_BUNDLES) --work build/arm64 --out $(ARM64_RESULT) --force

# Every runtime whose toolchain is here; a further one adds a line that writes build/conformance/NAME.json.
INT8_BUNDLE := build/microforge_int8.mfb

$(INT8_BUNDLE)/manifest.json: $(STAMP) $(wildcard microforge/pretrained/* microforge/pretrained/student/*)
	$(BIN)/mf-export build --out $(INT8_BUNDLE) --precision int8 --force

conformance: $(BUNDLE)/manifest.json $(INT8_BUNDLE)/manifest.json ## golden files, and the table of all runtimes on them
	rm -rf build/conformance && mkdir -p build/conformance
	$(BIN)/python -m microforge_benchmarks.conformance conformance
	@if command -v $(MAVEN) >/dev/null; then \
		cd runtimes/kotlin && $(MAVEN) $(MAVEN_ARGS) test -Dmaven.test.failure.ignore=true -Dmicroforge.report="$(abspath build/conformance/kotlin.json)" \
			-Dmicroforge.bundles="$(abspath $(BUNDLE)),$(abspath $(INT8_BUNDLE))"; \
	else echo "conformance: no Kotlin, $(MAVEN) is not installed"; fi
	$(BIN)/python -m microforge_benchmarks.conformance.table_cli $(BUNDLE) $(INT8_BUNDLE) --out conformance \
		$$(for report in build/conformance/*.json; do test -e "$$report" && printf -- '--report %s ' "$$report"; done)

clean: ## remove everything that was built, but not .venv
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
