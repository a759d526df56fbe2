# make demo | validate | test | fuzz | check | bench | accuracy | lock | image | clean
# Everything is installed into .venv, from the lock files in requirements/.

PYTHON ?= python3
LEVEL ?= quick
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help demo validate test fuzz check format bench bench-compare bench-scale bench-loading bench-receiving bench-site accuracy lock image clean

help:
	@echo "make demo    phantom patient -> scanner -> node -> PACS: pictures, a page and a table in demo-out/"
	@echo "make validate  the reading study on 4 simulated patients: a report in validation/ (LEVEL=full: all 38)"
	@echo "make test    all tests (installs the DICOM peers that they talk to, where it may)"
	@echo "make fuzz    10,000 mutated headers and files and 100,000 PDUs, instead of the 300 and 2,000 of make test (an hour)"
	@echo "make check   ruff, format and mypy --strict"
	@echo "make format  rewrite the sources the way ruff wants them"
	@echo "make bench   seconds per stage beside the machine's own floor, peak memory; JSON below benchmarks/results/"
	@echo "make bench-compare  the two newest of these as ratios; make bench-scale  64 to 384 voxels cubed"
	@echo "make bench-loading  seconds and memory from files to arrays, for every vendor"
	@echo "make bench-receiving  images per second beside Orthanc and DCMTK; make bench-site  turn-around by stage"
	@echo "make accuracy  errors on simulated heads that nothing was tuned on (ten minutes)"
	@echo "make lock    renew requirements/*.txt from pyproject.toml"
	@echo "make image   build the container image without a container engine"
	@echo "make clean   remove what the targets above made"

demo: .venv/run.stamp
	$(BIN)/qsm-node demo --output demo-out

validate: .venv/run.stamp
	$(BIN)/qsm-node validate --output validation --level $(LEVEL)

test: .venv/test.stamp .venv/peers.stamp
	$(BIN)/pytest -n 2

fuzz: .venv/test.stamp
	QSM_NODE_FUZZ=10000 QSM_NODE_FUZZ_PDUS=100000 $(BIN)/pytest -n 2 tests/test_fuzz.py tests/test_fuzz_network.py

check: .venv/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/test.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/run.stamp
	$(BIN)/python -m benchmarks.bench

bench-compare: .venv/run.stamp
	$(BIN)/python -m benchmarks.bench --compare

bench-scale: .venv/run.stamp
	$(BIN)/python -m benchmarks.bench --scale --runs 1

bench-loading: .venv/run.stamp
	$(BIN)/python -m benchmarks.loading

bench-receiving: .venv/run.stamp
	$(BIN)/python -m benchmarks.receiving

bench-site: .venv/run.stamp
	$(BIN)/python -m benchmarks.site

accuracy: .venv/run.stamp
	$(BIN)/python -m benchmarks.accuracy

lock: .venv/test.stamp
	scripts/lock.sh

image:
	scripts/build-image.sh

clean:
	rm -rf .venv demo-out validation benchmarks/cache dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find node recon phantoms benchmarks tests -name __pycache__ -prune -exec rm -rf {} +

# ------------------------------------------------------------------------------------------------ environment

.venv/pyvenv.cfg:
	scripts/venv.sh $(PYTHON)

.venv/run.stamp: .venv/pyvenv.cfg pyproject.toml requirements/run.txt requirements/build.txt
	@echo "Installing qsm-node and what it needs into .venv (about a minute) ..."
	$(PIP) install --require-hashes -r requirements/run.txt
	$(PIP) install --require-hashes -r requirements/build.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

.venv/test.stamp: .venv/run.stamp requirements/test.txt
	@echo "Installing the test tools into .venv ..."
	$(PIP) install --require-hashes -r requirements/test.txt
	@touch $@

.venv/peers.stamp: scripts/peers.sh scripts/apt-install.sh
	@scripts/peers.sh && touch $@ || [ "$$CI" != true ]
