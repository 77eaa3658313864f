# `make train` and `make test` need python3 (3.11 or newer), a C++17 compiler and make, and set up the
# rest in .venv: for training little, for tests all that they compare with. Both are quick when nothing
# changed.

VENV := .venv
PYTHON := $(VENV)/bin/python
SYSTEM_PYTHON := python3
TRAIN_EXTRAS := examples,cli
TEST_EXTRAS := test,dev,loggers,docs
CXX_FILES := $(shell find csrc tests/native -name '*.cpp' -o -name '*.hpp')
ASAN_BUILD := build/asan
BENCH := .venv-bench

PYTEST := $(PYTHON) -m pytest
PARALLEL := -n auto --maxprocesses 8 --dist worksteal

export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# Each worker reads all test files: compiling them anew each time takes longer than the rest of that.
export PYTHONDONTWRITEBYTECODE :=

# CMake takes it from the environment; what was compiled before is not compiled again after `clean`.
ifneq ($(shell command -v ccache 2>/dev/null),)
export CMAKE_CXX_COMPILER_LAUNCHER ?= ccache
endif

.PHONY: train test test-quick test-long lint native-test sanitized-build sanitize bench bench-gpu bench-check docs setup clean

train: $(VENV)/.built
	$(PYTHON) examples/digits.py $(ARGS)

# Checks and builds come first, side by side; tests take all cores.
test: setup
	$(MAKE) --jobs 2 --output-sync lint native-test sanitized-build
	$(MAKE) sanitize
	$(PYTEST) $(PARALLEL)
	@echo "left out: the longer forms, which 'make test-long' runs, and what needs a GPU"

# For the change at hand; it says what it leaves out.
test-quick: setup
	$(MAKE) lint
	$(PYTEST) $(PARALLEL) $$($(PYTHON) tests/quick.py)

test-long: setup
	$(PYTEST) --long

lint: setup
	ruff check .
	ruff format --check .
	mypy
	clang-format --dry-run --Werror $(CXX_FILES)

# The C++ core on its own, without Python.
native-test: setup
	cmake --build build/$(shell $(PYTHON) -c 'import sys; print(sys.implementation.cache_tag)') \
	  --target core_tests
	build/$(shell $(PYTHON) -c 'import sys; print(sys.implementation.cache_tag)')/core_tests

# The core and the native module under AddressSanitizer and UndefinedBehaviorSanitizer. Python is not
# instrumented and keeps memory until the end, so leaks are not looked for here (tests/test_memory.py
# does). Left out is what tests torch or Triton rather than the native code, and what starts Python
# anew, which takes ten seconds there.
sanitize: sanitized-build
	$(ASAN_BUILD)/core_tests
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so.6)" \
	  ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc HOOKRUN_NATIVE=$(CURDIR)/$(ASAN_BUILD) \
	  $(PYTEST) $(PARALLEL) tests/core tests/ops tests/runners/test_loops.py \
	  tests/schedules/test_policy_checks.py \
	  --ignore=tests/ops/test_distributed.py --ignore=tests/ops/test_device_step.py \
	  --ignore=tests/ops/test_bound_device_step.py --ignore=tests/ops/test_device_launch.py \
	  --ignore=tests/ops/test_device_guard.py \
	  -k "not many_steps and not reference and not triton and not on_a_device and not exchange_table \
	  and not whose_own_policy_is_none and not first_call_on and not start_none and not asking_torch"

sanitized-build: setup
	cmake -S . -B $(ASAN_BUILD) -G Ninja -DHOOKRUN_SANITIZE=ON -DPython_EXECUTABLE=$(CURDIR)/$(PYTHON) \
	  -DCMAKE_CXX_COMPILER_LAUNCHER=$(CMAKE_CXX_COMPILER_LAUNCHER) \
	  -Dpybind11_DIR=$$($(PYTHON) -c 'import pybind11; print(pybind11.get_cmake_dir())') >/dev/null
	cmake --build $(ASAN_BUILD) --target _native core_tests

# As a site, in build/site.
docs: setup
	$(VENV)/bin/mkdocs build -q

# Beside the peers, in an environment of their own; writes benchmarks/results and the tables.
bench: $(BENCH)/.installed
	$(BENCH)/bin/pip install -q -c constraints.txt '.[bench]'
	$(BENCH)/bin/pytest benchmarks $(ARGS)
	$(BENCH)/bin/python -m benchmarks.report

# On a machine with a CUDA device, where torch, triton and pybind11 are installed; see benchmarks/gpu.sh.
bench-gpu:
	benchmarks/gpu.sh $(ARGS)

# Whether ratios have become worse than the recorded ones; takes a few minutes on a quiet machine.
bench-check: setup
	rm -rf build/bench-check
	$(PYTHON) -m pip install -q -c constraints.txt pytest-benchmark
	$(PYTEST) -c benchmarks/pytest.ini --rootdir benchmarks --rounds 9 --results build/bench-check \
	  benchmarks/bench_dispatch.py benchmarks/bench_loop.py benchmarks/bench_schedules.py \
	  benchmarks/bench_small_steps.py benchmarks/bench_ops.py -k "not ViT"
	$(PYTHON) benchmarks/check.py build/bench-check

$(BENCH)/.installed: benchmarks/peers/install.py
	$(SYSTEM_PYTHON) benchmarks/peers/install.py $(BENCH)
	touch $@

setup: $(VENV)/.extras $(VENV)/mmcv/.installed

$(VENV)/.dependencies: constraints.txt pyproject.toml
	@$(SYSTEM_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "hookrun needs Python 3.11 or newer; set SYSTEM_PYTHON=python3.11"; exit 1; }
	test -x $(PYTHON) || $(SYSTEM_PYTHON) -m venv $(VENV)
	$(PYTHON) -m pip install -q -c constraints.txt setuptools pybind11 cmake ninja torch numpy
	touch $@

$(VENV)/.built: $(VENV)/.dependencies CMakeLists.txt setup.py $(wildcard csrc/*/*) \
		$(wildcard tests/native/*.cpp)
	$(PYTHON) -m pip install -q -c constraints.txt --no-build-isolation -e '.[$(TRAIN_EXTRAS)]'
	touch $@

# The clients of all loggers are 15,000 files, of which few are ever imported: those are compiled then.
$(VENV)/.extras: $(VENV)/.built
	$(PYTHON) -m pip install -q --no-compile -c constraints.txt 'hookrun[$(TEST_EXTRAS)]'
	touch $@

# Beside our own packages, for the tests that compare with it; see tests/compat/mmcv_runs.py.
$(VENV)/mmcv/.installed: $(VENV)/.dependencies tests/compat/requirements.txt
	PIP_CONSTRAINT=tests/compat/build-constraints.txt MMCV_WITH_OPS=0 $(PYTHON) -m pip install -q \
	  --use-pep517 --upgrade --no-deps --target $(VENV)/mmcv -r tests/compat/requirements.txt
	touch $@

clean:
	rm -rf build dist *.egg-info hookrun/_native*.so $(VENV)/.built
