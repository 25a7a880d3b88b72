# For a newcomer: `make demo` and `make test`. Both do all set-up themselves, in .venv.
#   make demo      train, attack and report on the embedded data; prints the page's path last (minutes, 2 cores)
#   make test      lint, types and the quick tests
#   make test-all  the same, then the slow tests: browser, wheel, real data where it is there
#   make bench     speed against a bare loop, ratios in one run
#   make peers     beside torchattacks, foolbox, ART and AutoAttack, in an environment of their own (many minutes)
#   make test-oldest   the quick tests with the oldest torch that is claimed

PYTHON ?= python3
JOBS ?= 2
OUT ?= runs/demo
VENV := .venv
BIN := $(VENV)/bin
OLDEST := 2.11.0
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.PHONY: demo test test-all test-slow test-oldest lint types unit bench peers clean

# --no-compile: bytecode is written as modules are first imported, not for all of torch.
INSTALL := -m pip install -qq --no-compile --disable-pip-version-check

# On Linux PyPI's torch is a CUDA build of several GB; PyTorch's own index has the CPU build. Asked for only where it
# answers, since pip waits long for an index that does not. `make TORCH_INDEX= demo` takes pip's configured index alone.
TORCH_INDEX = $(shell $(PYTHON) -c "import urllib.request as r; u = 'https://download.pytorch.org/whl/cpu'; \
	r.urlopen(u + '/torch/', timeout=5); print('--extra-index-url', u)" 2>/dev/null)

demo: $(VENV)/.core
	@$(BIN)/crossguard demo --out $(OUT)

test: lint types unit

test-all: test test-slow

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/pyright

unit: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(JOBS) -m "not slow"

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow --timeout 1800

bench: $(VENV)/.dev
	@for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python $$file; done

peers: $(VENV)-peers/.ready
	@for what in pgd worst_case; do $(VENV)-peers/bin/python benchmarks/peers $$what; done

# visdom, which adv-lib wants, is built with what setuptools 81 dropped; how pip is told so changed with pip 25.3.
$(VENV)-peers/.ready: constraints.txt pyproject.toml benchmarks/requirements-peers.txt
	$(PYTHON) -m venv $(VENV)-peers
	echo 'setuptools<81' > $(VENV)-peers/build.txt
	$(VENV)-peers/bin/python $(INSTALL) -c constraints.txt $(TORCH_INDEX) torch
	PIP_CONSTRAINT=$(VENV)-peers/build.txt PIP_BUILD_CONSTRAINT=$(VENV)-peers/build.txt \
		$(VENV)-peers/bin/python $(INSTALL) -c constraints.txt -e . -r benchmarks/requirements-peers.txt
	@touch $@

# torch must come first and from the constraint: any other order may pull the newest CUDA build.
$(VENV)/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "crossguard needs Python 3.11 or newer; say which: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
		|| { echo "could not make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "installing torch into $(VENV) …"
	@$(BIN)/python $(INSTALL) -c constraints.txt $(TORCH_INDEX) torch
	@touch $@

$(VENV)/.core: $(VENV)/.torch pyproject.toml
	@echo "installing crossguard …"
	@$(BIN)/python $(INSTALL) -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	@echo "installing crossguard and its development tools …"
	@$(BIN)/python $(INSTALL) -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.core

# Not part of CI: on PyPI torch $(OLDEST) is a CUDA build of several GB. Run it before a release, or on a GPU machine.
test-oldest:
	$(PYTHON) -m venv $(VENV)-oldest
	grep -v '^torch==' constraints.txt > $(VENV)-oldest/constraints.txt
	echo 'torch==$(OLDEST)' >> $(VENV)-oldest/constraints.txt
	$(VENV)-oldest/bin/python $(INSTALL) -c $(VENV)-oldest/constraints.txt $(TORCH_INDEX) torch
	$(VENV)-oldest/bin/python $(INSTALL) -c $(VENV)-oldest/constraints.txt -e '.[dev]'
	$(VENV)-oldest/bin/python -m pytest -n $(JOBS) -m "not slow"

clean:
	rm -rf $(VENV) $(VENV)-oldest $(VENV)-peers build dist .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
