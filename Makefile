# Two commands do everything on a fresh machine: `make demo` and `make test`.

PYTHON ?= python3
MODEL := .cache/SmolLM2-135M-Instruct.Q4_1.gguf
OUT ?= demo-output
PARALLEL := --numprocesses 2
# What takes minutes and does not depend on transformers' release.
ONCE := tests/faults tests/good tests/mutations tests/validation/reports tests/validation/speed \
	tests/seap_export/corpus tests/seap_export/plan tests/seap_export/plots \
	$(patsubst %,tests/seap_export/cli/test_%.py,bad_input mixed_export plot_command process)

.PHONY: demo test test-fast lint clean

# The main job on a real model: three tasks and all of them together, ratio 0.2, CPU.
demo: .venv/installed $(MODEL)
	.venv/bin/seap-export export $(MODEL) \
		--task arithmetic=samples/tasks/arithmetic.jsonl \
		--task everyday=samples/tasks/everyday.toml \
		--task reading=samples/tasks/reading.txt \
		--general --ratio 0.2 --out $(OUT)

# All checks and all tests, with current transformers and with 4.57.
test: lint .venv/installed .venv-transformers4/installed .venv-genai/installed $(MODEL)
	.venv/bin/python -m pytest $(PARALLEL) -m "not real"
	.venv/bin/python -m pytest -m real --durations 15
	.venv-transformers4/bin/python -m pytest $(PARALLEL) -m "not real" $(ONCE:%=--ignore %)

# The tests on micro models only, in the main environment.
test-fast: .venv/installed
	.venv/bin/python -m pytest $(PARALLEL) -m "not real"

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

.venv/installed: pyproject.toml
	@echo 'Installing into .venv (about 2 GB, a minute or more) ...'
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --upgrade pip
	.venv/bin/python -m pip install --quiet --editable '.[dev]'
	@touch $@

# The oldest supported transformers, which many production stacks still use, and which optimum-onnx needs.
.venv-transformers4/installed: pyproject.toml
	$(PYTHON) -m venv .venv-transformers4
	.venv-transformers4/bin/python -m pip install --quiet --upgrade pip
	.venv-transformers4/bin/python -m pip install --quiet --editable '.[dev,optimum-onnx]' 'transformers==4.57.*'
	@touch $@

# ONNX Runtime GenAI brings its own onnxruntime, so it cannot share an environment with ours.
.venv-genai/installed: pyproject.toml
	$(PYTHON) -m venv .venv-genai
	.venv-genai/bin/python -m pip install --quiet --upgrade pip
	.venv-genai/bin/python -m pip install --quiet 'onnxruntime-genai==0.18.*'
	@touch $@

$(MODEL): samples/get_model.py
	$(PYTHON) samples/get_model.py .cache
	@touch $@

clean:
	rm -rf .venv .venv-transformers4 .venv-genai .cache $(OUT)
