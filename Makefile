# Two commands do everything: `make book` and `make test`. Each makes the environment it needs in .venv,
# and does nothing that it has already done. `make help` lists the rest.

PYTHON ?= python3
JOBS ?= 2
PYTEST_ARGS ?=
PIP_ARGS ?=

# Relative paths only, so that a checkout may lie under a folder with spaces in its name.
VENV := .venv
PY := $(VENV)/bin/python
BOOK_READY := $(VENV)/.ready-book
TEST_READY := $(VENV)/.ready-test
INDEX := _build/html/index.html
BOOK_SOURCES := _config.yml $(shell find book ddetr_lab -type f ! -path '*/.*' ! -path '*/__pycache__/*' 2>/dev/null)

NBVAL := --nbval --nbval-current-env --nbval-sanitize-with=tests/book/nbval_sanitize.cfg --nbval-cell-timeout=600

# The address of the public repository, if there is one: it puts repository and launch buttons on the pages.
BOOK_REPOSITORY ?=
export BOOK_REPOSITORY

CLASSROOM_SET := _build/classroom

.PHONY: classroom-check book-pages book-table book-check fault-check help ops cuda-compile cuda-check book test lab lint format coverage sanitize golden-report clean distclean force
.NOTPARALLEL:
.DEFAULT_GOAL := help

help:
	@echo 'make book           set up .venv, render the book, print the address of its first page'
	@echo 'make test           set up .venv, run every test and every notebook (JOBS=2 processes)'
	@echo 'make ops            compile the operator (book and test do it too)'
	@echo 'make cuda-compile   compile the CUDA kernels for every GPU: seconds, registers, spills (no GPU needed)'
	@echo 'make cuda-check     test the CUDA kernels on the GPU here, also under compute-sanitizer'
	@echo 'make lab            set up .venv, open the chapters in JupyterLab'
	@echo 'make lint           ruff and mypy;   make format   lets ruff rewrite the files'
	@echo 'make coverage       which lines of ddetr_lab the tests reach'
	@echo 'make sanitize       100,000 random calls of the operator, compiled with ASan and UBSan (CALLS=...)'
	@echo 'make classroom-check  grade the teacher'\''s notebooks (full marks) and a student set (none)'
	@echo 'make book-table     run the chapters, write what they took and how long they are into the pages (CHAPTERS="5 6")'
	@echo 'make book-pages     the same without running: what is counted, from what was measured last'
	@echo 'make book-check     Chromium over every page, light and dark, wide and narrow (needs chromium and axe-core)'
	@echo 'make fault-check    plant faults in copies of the package: each must turn a notebook red'
	@echo 'make golden-report  largest differences from the stored numbers of the reference'
	@echo 'make clean          remove what was built;   make distclean   also removes .venv'
	@echo
	@echo 'PYTHON=python3.12 chooses the interpreter (3.10 or later) when .venv is first made;'
	@echo 'PYTEST_ARGS and PIP_ARGS are passed on, BOOK_REPOSITORY=URL puts that link on the pages.'

$(PY):
	@command -v $(PYTHON) >/dev/null || { echo "There is no '$(PYTHON)' here. Install Python 3.10 or later, or say PYTHON=/path/to/python3."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "$(PYTHON) is older than Python 3.10. Choose another one: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "$(PYTHON) cannot make environments (on Debian and Ubuntu: apt install python3-venv)."; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# An environment that was made by hand is used as it is: pip adds only what is missing.
$(BOOK_READY): pyproject.toml | $(PY)
	@echo "Installing into $(VENV): the first time this takes some minutes and several gigabytes, most of it PyTorch."
	$(PY) -m pip install --disable-pip-version-check $(PIP_ARGS) --editable '.[book]'
	@touch $@

# `test` contains `book`, so one stamp answers for the other.
$(TEST_READY): pyproject.toml | $(PY)
	@echo "Installing into $(VENV): the first time this takes some minutes and several gigabytes, most of it PyTorch."
	$(PY) -m pip install --disable-pip-version-check $(PIP_ARGS) --editable '.[test]'
	@touch $(BOOK_READY) $@

# The operator's compiled kernel. Without a compiler everything runs on the vectorised path, and doctor says so.
ops: $(BOOK_READY)
	@$(VENV)/bin/ddetr-lab build-ops || echo 'Going on without the compiled operator: slower, with the same numbers.'

cuda-compile: $(BOOK_READY)
	PYTHONPATH=. $(PY) tests/ops/cuda_compile.py

# initcheck and racecheck are slow: one dtype and width each.
CUDA_TESTS := $(PY) -m pytest -n 0 -p no:randomly tests/ops/test_cuda.py
cuda-check: $(TEST_READY) ops
	$(CUDA_TESTS)
	for tool in memcheck synccheck; do compute-sanitizer --tool $$tool --error-exitcode 1 $(CUDA_TESTS) -k 'not hundred and not waits' || exit 1; done
	for tool in racecheck initcheck; do compute-sanitizer --tool $$tool --error-exitcode 1 $(CUDA_TESTS) -k 'formula and 32 and float32' || exit 1; done

book: ops $(INDEX)
	@echo
	@echo 'The book is ready. Open this page in a browser:'
	@echo '  $(CURDIR)/$(INDEX)'

# --all: without it Sphinx re-reads changed pages only, and a link that broke elsewhere stays hidden.
$(INDEX): $(BOOK_SOURCES) $(BOOK_READY) $(if $(BOOK_REPOSITORY),force)
	$(PY) $(VENV)/bin/jupyter-book build book --config _config.yml --path-output . -q -W -n --keep-going --all
	@touch $@

# One thread a process: two processes with two threads each on two cores are several times slower.
test coverage golden-report: export OMP_NUM_THREADS = 1
test coverage golden-report: export MKL_NUM_THREADS = 1

test: $(TEST_READY) ops
	$(PY) -m pytest tests book $(NBVAL) -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

coverage: $(TEST_READY)
	$(PY) -m pytest tests -n $(JOBS) --dist loadfile --cov --cov-report=term-missing:skip-covered $(PYTEST_ARGS)

# The sanitizers' runtimes must be in the process before Python is; Python itself leaks by design.
SANITIZE := -O1 -g1 -fno-omit-frame-pointer -fno-sanitize-recover=all -fsanitize=address,undefined,float-cast-overflow
CALLS ?= 100000

sanitize: export DDETR_LAB_CXXFLAGS := $(SANITIZE)
sanitize: export ASAN_OPTIONS := detect_leaks=0:detect_stack_use_after_return=1
sanitize: export UBSAN_OPTIONS := print_stacktrace=1
sanitize: $(BOOK_READY)
	@$(VENV)/bin/ddetr-lab build-ops
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
		$(PY) -m tests.ops.fuzz --calls $(CALLS)

lab: $(BOOK_READY)
	$(PY) -m jupyter lab --notebook-dir=book

lint: $(TEST_READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(TEST_READY)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

# Both gradings take some minutes; the exit code does not depend on grades, so the points are looked at here.
classroom-check: $(TEST_READY) ops
	@rm -rf $(CLASSROOM_SET) && mkdir -p $(CLASSROOM_SET)
	$(VENV)/bin/ddetr-lab classroom student --out $(CLASSROOM_SET)/student
	$(VENV)/bin/ddetr-lab classroom grade book --out $(CLASSROOM_SET)/teacher.csv --jobs $(JOBS)
	$(VENV)/bin/ddetr-lab classroom grade $(CLASSROOM_SET)/student --out $(CLASSROOM_SET)/student.csv --jobs $(JOBS)
	@$(PY) -m tests.classroom.points $(CLASSROOM_SET)/teacher.csv $(CLASSROOM_SET)/student.csv

# Seconds are of one thread, as a process of `make test` has it.
book-table: export OMP_NUM_THREADS = 1
book-table: export MKL_NUM_THREADS = 1
book-table: $(TEST_READY) ops
	$(PY) -m tests.book.measure $(CHAPTERS)
	$(PY) -m tests.book.pages

book-pages: $(TEST_READY)
	$(PY) -m tests.book.pages

# PICTURES=folder keeps a screenshot of each page in each mode.
book-check: $(TEST_READY)
	$(PY) -m tests.book.book_check $(if $(PICTURES),--pictures '$(PICTURES)')

fault-check: $(TEST_READY) ops
	$(PY) -m tests.book.faults

golden-report: $(TEST_READY)
	$(PY) tests/golden/report.py

clean:
	rm -rf _build build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis htmlcov .coverage
	find ddetr_lab tests book -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV) ddetr_lab.egg-info

force:
