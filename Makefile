# make demo: set up and run the main job. make test: set up and pass the tests. Nothing else is needed
# before either than Python 3.10+ and a C++20 compiler.
PYTHON ?= python3
TORCH ?= torch==2.13.0
CUDA_TORCH ?= torch==2.11.0
VENV ?= .venv
CUDA_VENV ?= .venv-cuda
JOBS ?= 2
GPU_PYTHON ?= python3
DEMO_REQUESTS ?= 12
# For `make wheel`: the Pythons, and the torches of cmake/torches.csv (none named: all).
PYTHONS ?= $(shell for v in 3.10 3.11 3.12 3.13; do python$$v -c '' 2>/dev/null && echo python$$v; done)
TORCHES ?=
TORCH_HEADERS ?= .torch-headers
FUZZ_CXX ?= clang++-19
FUZZ_SECONDS ?= 30

export CMAKE_BUILD_PARALLEL_LEVEL = $(JOBS)
export PIP_DISABLE_PIP_VERSION_CHECK = 1

BIN := $(VENV)/bin
CUDA_BIN := $(CUDA_VENV)/bin
PIP := $(BIN)/python -m pip install --quiet
CUDA_PIP := $(CUDA_BIN)/python -m pip install --quiet
BUILD_TOOLS := cmake ninja pybind11 scikit-build-core
CUDA_HEADERS := "nvidia-cuda-runtime<13.1" "nvidia-cuda-crt<13.1"
# Builds of two environments can run side by side: each has a folder of its own.
INSTALL = --no-build-isolation -Cbuild-dir=build/$(patsubst .%,%,$(notdir $(1)))
SOURCES := $(shell find csrc src cmake -type f -not -path '*/__pycache__/*') CMakeLists.txt pyproject.toml

.PHONY: demo test test-python test-cpp test-asan test-tsan test-fuzz test-aarch64 gate hot-path test-cuda-sim wheel test-matrix lint tidy format bench bench-cuda-sim test-gpu bench-gpu bench-rivals clean
.DEFAULT_GOAL := test

# ---- set-up: each stamp is one finished step ----------------------------------------------------
$(VENV)/.torch: Makefile
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	$(PIP) $(TORCH) $(BUILD_TOOLS) $(CUDA_HEADERS)
	touch $@

$(VENV)/.installed: $(VENV)/.torch $(SOURCES)
	$(PIP) $(call INSTALL,$(VENV)) ".[test,integration,example]"
	touch $@

$(VENV)/.lint: $(VENV)/.torch pyproject.toml
	$(PIP) $(call INSTALL,$(VENV)) ".[lint]"
	touch $@

# The CUDA build of torch without NVIDIA's packages: the simulated runtime stands in for them.
$(CUDA_VENV)/.torch: Makefile
	test -x $(CUDA_BIN)/python || $(PYTHON) -m venv $(CUDA_VENV)
	$(CUDA_PIP) --upgrade pip
	$(CUDA_PIP) --no-deps $(CUDA_TORCH)
	$(CUDA_PIP) filelock typing-extensions sympy networkx jinja2 fsspec "setuptools<82"
	$(CUDA_PIP) $(BUILD_TOOLS) $(CUDA_HEADERS) transformers
	$(CUDA_PIP) --no-deps accelerate
	touch $@

$(CUDA_VENV)/.installed: $(CUDA_VENV)/.torch $(SOURCES)
	$(CUDA_PIP) $(call INSTALL,$(CUDA_VENV)) ".[test]"
	touch $@

# ---- what a person asks for ---------------------------------------------------------------------
demo: $(VENV)/.installed
	$(BIN)/python -m memtrace run --force -o demo.memtrace examples/serve.py --requests $(DEMO_REQUESTS)
	$(BIN)/python -m memtrace summary demo.memtrace
	$(BIN)/python -m memtrace peak demo.memtrace
	$(BIN)/python -m memtrace stages demo.memtrace

test: lint test-cpp test-python

test-python: $(VENV)/.installed
	tools/install_test_tools
	$(BIN)/python -m pytest -m "not cuda_sim" tests

# $(call configure,PRESET): .build/PRESET, for the Python and with the tools of the environment.
configure = $(BIN)/cmake --preset $(1) --log-level=WARNING \
  -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) -DPython_EXECUTABLE=$(abspath $(BIN)/python) \
  -Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir)
NATIVE_TESTS := memtrace_tests memtrace_hook_tests

test-cpp: $(VENV)/.torch
	tools/install_test_tools
	$(call configure,dev)
	$(BIN)/cmake --build --preset dev
	$(BIN)/ctest --preset dev

# The C++ tests, and the walk over Python's frames with its hazards.
test-asan: $(VENV)/.installed
	tools/install_test_tools
	$(call configure,asan)
	$(BIN)/cmake --build --preset asan --target $(NATIVE_TESTS)
	$(BIN)/ctest --preset asan
	tests/hook/run_asan.sh $(BIN)/python

test-tsan: $(VENV)/.torch
	tools/install_test_tools
	$(call configure,tsan)
	$(BIN)/cmake --build --preset tsan --target $(NATIVE_TESTS)
	$(BIN)/ctest --preset tsan

# The native readers under libFuzzer, which comes with clang.
test-fuzz: $(VENV)/.installed
	FUZZ_CXX=$(FUZZ_CXX) tools/install_test_tools fuzzer
	$(call configure,fuzz) -DCMAKE_CXX_COMPILER=$(FUZZ_CXX)
	$(BIN)/cmake --build --preset fuzz --target fuzz_spool fuzz_packed fuzz_json fuzz_settings
	PYTHONPATH=tests $(BIN)/python tests/fuzz/readers.py .build/fuzz/tests/fuzz --seconds $(FUZZ_SECONDS)

# The same C++ on another processor, which has no time stamp counter that we know of.
test-aarch64: $(VENV)/.torch
	tools/install_test_tools aarch64
	$(call configure,aarch64)
	$(BIN)/cmake --build --preset aarch64 --target $(NATIVE_TESTS)
	tools/test_aarch64 .build/aarch64 $(BIN)/python $(JOBS)

# Instructions of the hot paths and of the analyses, beside those that were committed.
gate: $(VENV)/.installed
	tools/install_test_tools
	$(BIN)/python benchmarks/gate/gate.py

# The hot paths as compiled, with the instructions per event of each line.
hot-path: $(VENV)/.installed
	tools/install_test_tools
	$(BIN)/python benchmarks/gate/hot_path.py --listing

test-cuda-sim: $(CUDA_VENV)/.installed
	tools/install_test_tools
	$(CUDA_BIN)/python -m pytest -m cuda_sim $$(grep -rl cuda_sim tests --include=test_*.py)

# One wheel for each Python, with hooks for every torch whose headers are in TORCH_HEADERS. Its tools
# stay where they are: for new ones, as pip's own are each time, scikit-build-core compiles everything again.
wheel:
	$(PYTHON) cmake/torch_headers.py fetch $(TORCH_HEADERS) $(TORCHES)
	set -e; for python in $(PYTHONS); do \
	  made_in=.build/wheel-$$($$python -c 'import sys; print("cp%d%d" % sys.version_info[:2])'); \
	  test -e $$made_in/.tools || { $$python -m venv --clear $$made_in; \
	    $$made_in/bin/python -m pip install --quiet $(BUILD_TOOLS); touch $$made_in/.tools; }; \
	  $$made_in/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist \
	    --config-settings=build-dir='build/{wheel_tag}' \
	    --config-settings=cmake.define.MEMTRACE_TORCH_HEADERS=$(abspath $(TORCH_HEADERS)) .; done

# Each wheel in dist/ with each torch, installed where there is no compiler.
test-matrix:
	$(PYTHON) tests/matrix/run.py --headers $(TORCH_HEADERS) --pythons $(PYTHONS) --torches $(TORCHES)

lint: $(VENV)/.installed $(VENV)/.lint tidy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tools/check_layers.py
	git ls-files '*.h' '*.cpp' | xargs $(BIN)/clang-format --dry-run --Werror

# Only what has changed since it was clean is looked at: .build/tidy remembers.
tidy: $(VENV)/.torch $(VENV)/.lint
	$(call configure,dev)
	$(BIN)/python tools/tidy --jobs $(JOBS)

format:
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	git ls-files '*.h' '*.cpp' | xargs $(BIN)/clang-format -i

bench: $(VENV)/.installed
	tools/install_test_tools
	$(PIP) memray
	$(PIP) --no-deps torchao==0.18.0 bitsandbytes==0.50.2
	$(BIN)/python benchmarks/record/whole_program.py
	$(BIN)/python benchmarks/record/cache_misses.py
	$(BIN)/python benchmarks/record/event_instructions.py
	$(BIN)/python benchmarks/record/stack_walk.py
	$(BIN)/python benchmarks/record/threads.py
	$(BIN)/python benchmarks/record/threads.py --plain
	$(BIN)/python benchmarks/record/host_memory.py
	$(BIN)/python benchmarks/record/soak.py
	$(BIN)/python benchmarks/record/long_run.py
	$(BIN)/python benchmarks/gate/gate.py
	$(BIN)/python benchmarks/finalise/throughput.py --millions 10
	$(BIN)/python benchmarks/attribute/attribution.py
	$(BIN)/python benchmarks/attribute/confusion.py
	$(BIN)/python benchmarks/attribute/unattributed.py
	$(BIN)/python benchmarks/analyse/leaks.py
	$(BIN)/python benchmarks/sample/core_share.py
	$(BIN)/python benchmarks/live/following.py
	$(BIN)/python benchmarks/frameworks/asgi.py
	$(BIN)/python benchmarks/analyse/reading.py
	$(BIN)/python benchmarks/export/perfetto.py
	$(BIN)/python benchmarks/export/snapshots.py
	$(BIN)/python benchmarks/page/large_page.py
	$(BIN)/python benchmarks/replay/speed.py
	$(BIN)/python benchmarks/fit/held_cases.py
	$(BIN)/python benchmarks/fit/int8_weight_only.py
	$(BIN)/python benchmarks/fit/eight_bit_states.py

# Beside torch's own memory history, and held against it; on the simulated CUDA runtime.
bench-cuda-sim: $(CUDA_VENV)/.installed $(VENV)/.installed
	$(CUDA_PIP) --no-deps torchao==0.18.0
	$(CUDA_BIN)/python benchmarks/record/cuda_history.py
	$(CUDA_BIN)/python benchmarks/exact/first_divergence.py
	$(CUDA_BIN)/python benchmarks/replay/predictions.py
	$(BIN)/python benchmarks/fit/held_cases.py --device cuda --python $(CUDA_BIN)/python
	$(CUDA_BIN)/python benchmarks/fit/cpu_as_gpu.py

# On a real GPU, in an environment that has its torch and memtrace: GPU_PYTHON. Nothing is installed.
test-gpu:
	$(GPU_PYTHON) tests/gpu/run_all.py --jobs $(JOBS)

bench-gpu:
	$(GPU_PYTHON) benchmarks/gpu/llama.py
	$(GPU_PYTHON) benchmarks/record/cuda_history.py
	$(GPU_PYTHON) benchmarks/replay/predictions.py --part settings --jobs $(JOBS)
	$(GPU_PYTHON) benchmarks/fit/cpu_as_gpu.py --jobs $(JOBS)
	$(GPU_PYTHON) benchmarks/fit/held_cases.py --device cuda

# RIVALS="--mosaic DIR --flamegraph FILE": how to get these, the benchmark says.
bench-rivals: $(VENV)/.installed
	$(BIN)/python benchmarks/rivals/peak_owners.py $(RIVALS)

clean:
	rm -rf build .build .simcuda .torch-headers dist $(VENV) $(CUDA_VENV) demo.memtrace
