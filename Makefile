# make compare   the hand-written MLP against autograd on real data, with a table and TensorBoard
# make test      the test suite
PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?= --quiet --disable-pip-version-check
BIN := $(VENV)/bin
# A process for each core, of one thread each: most tests are too small for a second thread.
PARALLEL ?= --numprocesses auto --dist worksteal
NATIVE := manualbp/fast/native
CSRC := $(wildcard $(NATIVE)/csrc/*.* $(NATIVE)/csrc/*/*.*)

.PHONY: compare gradients power speed physics walkthrough test test-without-native test-slow test-kernels test-clients docs lint format install clean

compare: install
	$(BIN)/python -m comparisons training $(ARGS)

gradients power physics walkthrough: install
	$(BIN)/python -m comparisons $@ $(ARGS)

speed: $(VENV)/peers $(VENV)/native
	$(BIN)/python -m comparisons speed $(ARGS)

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL) $(ARGS)

# What has a way in C++ and one in Python; `test` takes the first, where it is built.
test-without-native: install
	MANUALBP_NATIVE=0 OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL) \
	    tests/modules tests/autograd tests/fast tests/dropin tests/conversion $(ARGS)

test-slow: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow $(PARALLEL) $(ARGS)

test-kernels: $(VENV)/kernels
	OMP_NUM_THREADS=1 TRITON_INTERPRET=$$($(BIN)/python -c "import torch; print(int(not torch.cuda.is_available()))") \
	    $(BIN)/python -m pytest -m kernels $(PARALLEL) tests/fast/gpu/kernels $(ARGS)

test-clients: $(VENV)/clients
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m clients tests/clients $(ARGS) # tiny networks

# Not incremental: a page that is left over would hide a link that leads nowhere.
docs: $(VENV)/docs
	rm -rf build/docs
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going docs build/docs
	@echo "open build/docs/index.html"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CSRC)

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CSRC)

install: $(VENV)/native

# Without a compiler it says so in a line, and everything runs in Python.
$(VENV)/native: $(VENV)/installed $(CSRC) $(wildcard $(NATIVE)/*.py)
	@if $(BIN)/python -m manualbp build; then touch $@; fi

$(VENV)/installed: pyproject.toml setup.py constraints.txt $(wildcard requirements/*.txt)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -r requirements/dev.txt
	touch $@

$(VENV)/kernels: $(VENV)/installed
	$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -r requirements/dev.txt -e ".[triton]"
	touch $@

$(VENV)/clients: $(VENV)/installed
	$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -r requirements/dev.txt -r requirements/clients.txt
	touch $@

$(VENV)/docs: $(VENV)/installed requirements/docs.txt
	$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -r requirements/dev.txt -r requirements/docs.txt
	touch $@

$(VENV)/peers: $(VENV)/installed
	$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -r requirements/dev.txt -r requirements/peers.txt
	touch $@

clean:
	rm -rf $(VENV) $(NATIVE)/built *.egg-info build .mypy_cache .pytest_cache .ruff_cache
