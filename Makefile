# `make help` lists the commands. They need Python 3.11 or newer, make and a C compiler; all else is
# installed into .venv. Nothing is fetched from a model hub: the models and data that tests and demo
# use come as pinned packages and are kept in GUARD_CACHE (default ~/.cache/trigger-guard).
#
# Two lanes are tested, pinned in constraints/:
#   A  .venv     transformers 4.57 with optimum   everything
#   B  .venv-b   transformers 5                   the tests marked `search`
#
# On Linux the default index serves torch with CUDA, several GB. The CPU build is enough: name PyTorch's
# own index of CPU builds in PIP_EXTRA_INDEX_URL.

PYTHON ?= python3
A := .venv
B := .venv-b

export HF_HUB_OFFLINE := 1

.PHONY: help demo test lint format bench-quick clean

help:
	@echo "make demo         see it work: start here"
	@echo "make test         ruff, mypy and every test; lane B runs those marked search"
	@echo "make lint         ruff and mypy alone"
	@echo "make format       have ruff format the code and mend what it can"
	@echo "make bench-quick  the short form of the benchmarks"
	@echo "make clean        remove the environments and the tools' caches"
	@echo "With another Python: make test PYTHON=python3.12"

# The environments are made by a second make, so that each comes after its progress line and lane B
# is installed only once lane A has passed.
environment = $(MAKE) --no-print-directory

demo:
	@echo "[1/2] environment $(A)"
	@$(environment) $(A)/.demo
	@echo "[2/2] demo"
	@$(A)/bin/python -m examples.demo

bench-quick:
	@echo "[1/2] environment $(A)"
	@$(environment) $(A)/.dev
	@echo "[2/2] benchmarks"
	@$(A)/bin/python -m benchmarks quick

# One worker a core, and so one thread each; the demo before them has all cores for its training.
workers := OMP_NUM_THREADS=1
parallel := -n auto --dist loadfile

test:
	@echo "[1/6] environment of lane A, $(A)"
	@$(environment) $(A)/.dev
	@echo "[2/6] ruff and mypy"
	@$(environment) lint
	@echo "[3/6] the demo, whose models the tests share; minutes the first time"
	@$(A)/bin/python -m examples.demo
	@echo "[4/6] tests in lane A"
	@$(workers) $(A)/bin/python -m pytest $(parallel)
	@echo "[5/6] environment of lane B, $(B)"
	@$(environment) $(B)/.dev
	@echo "[6/6] tests in lane B, of what transformers 5 may change"
	@$(workers) $(B)/bin/python -m pytest $(parallel) -m search

lint: $(A)/.dev
	@$(A)/bin/python -m ruff check
	@$(A)/bin/python -m ruff format --check
	@$(A)/bin/python -m mypy

format: $(A)/.dev
	@$(A)/bin/python -m ruff check --fix
	@$(A)/bin/python -m ruff format

clean:
	rm -rf $(A) $(B) .hypothesis .mypy_cache .pytest_cache .ruff_cache dist

define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'trigger-guard needs Python 3.11 or newer; name one: PYTHON=python3.12' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	  echo '$(PYTHON) cannot make environments; on Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }
	@echo "      installing; the first time takes about a minute"
	@test -x $(@D)/bin/pip || $(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install -qq -c $(filter constraints/%,$^) -e '.[$(EXTRAS)]'
endef

# A stamp says what is installed: the next call skips pip until the pins change.
$(A)/.demo: EXTRAS := demo
$(A)/.demo: pyproject.toml constraints/lane-a.txt
	$(install)
	@touch $@

# The development set contains the demo's.
$(A)/.dev: EXTRAS := dev,optimum
$(A)/.dev: pyproject.toml constraints/lane-a.txt
	$(install)
	@touch $(A)/.demo $@

$(B)/.dev: EXTRAS := dev
$(B)/.dev: pyproject.toml constraints/lane-b.txt
	$(install)
	@touch $@
