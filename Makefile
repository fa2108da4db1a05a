# Each target creates the environment it needs in .venv: python3 (with venv) and make
# are all that has to be there.

PYTHON ?= python3
BIN = .venv/bin
PIP = $(BIN)/pip --disable-pip-version-check install -q -c constraints.txt
DEMO = build/demo
SITE = build/docs

.PHONY: demo docs test lint soak bench accuracy gpu software-gpu clean

# torch comes first and pinned: a range would take the newest build, which on Linux
# brings several gigabytes of CUDA.
.venv/torch: constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) torch
	touch $@

.venv/main: .venv/torch pyproject.toml
	$(PIP) -e '.[export,cpu]'
	touch $@

.venv/dev: .venv/torch pyproject.toml
	$(PIP) -e '.[dev]'
	touch $@ .venv/main

# A labelled part of a simulated flight trains the network; a larger unseen part is
# mapped and compared with the truth.
demo: .venv/main
	rm -rf $(DEMO) && mkdir -p $(DEMO)
	$(BIN)/python -m hsi_train.simulate $(DEMO)/labelled.tif --rows 400 --cols 400 \
	    --bands 60 --range 400 2500 --truth $(DEMO)/labels.tif
	$(BIN)/hsi-train mf2cnet --scene $(DEMO)/labelled.tif --labels $(DEMO)/labels.tif \
	    --quick -o $(DEMO)/run
	$(BIN)/hsi-export $(DEMO)/run
	$(BIN)/python -m hsi_train.simulate $(DEMO)/scene.tif --rows 1200 --cols 1000 \
	    --bands 60 --range 400 2500 --origin-row 5000 --border \
	    --truth $(DEMO)/truth.tif --abundances $(DEMO)/abundances.tif
	$(BIN)/hsi-run $(DEMO)/scene.tif -m $(DEMO)/run/model.onnx --preview
	@echo "Pixels that are at least 70 % one material:"
	@$(BIN)/python -m hsi_train.accuracy $(DEMO)/scene_classes.tif $(DEMO)/truth.tif \
	    --abundances $(DEMO)/abundances.tif --min-abundance 0.7
	@echo "Class map: $(DEMO)/scene_classes.tif"
	@echo "Preview:   $(DEMO)/scene_preview.png"
	@echo "Report:    $(DEMO)/run/report.html"

# Without -n the tests run one after another, as plain `pytest` does.
test: .venv/dev
	$(BIN)/python -m pytest -q -n logical --maxprocesses 8 --dist worksteal

# A GPU in software, on which the tests run WebGPU where it is there (Debian, Ubuntu).
software-gpu:
	mkdir -p build/software_gpu
	cd build/software_gpu && apt-get download -q chromium-common libvulkan1 && \
	    for package in *.deb; do dpkg-deb -x $$package .; done

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile

# Pages to read in a browser, without a network: build/docs/index.html. Their generated
# parts must be up to date: .docs/generate.py without --check renews them.
docs: .venv/dev
	$(BIN)/python .docs/generate.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build -q --strict \
	    -f .docs/mkdocs.yml -d $(abspath $(SITE))
	@echo "Pages: $(SITE)/index.html"

# Long runs: five-seed accuracy on real data (HSI_DATA), a bare environment, memory.
soak: .venv/dev
	$(BIN)/python -m pytest -q -m soak

# Speed and memory on this machine. Half precision needs the real scenes in HSI_DATA.
bench: .venv/dev
	$(BIN)/python benchmarks/dense_speed.py
	$(BIN)/python benchmarks/memory_by_size.py
	$(BIN)/python benchmarks/end_to_end.py
	$(BIN)/python benchmarks/half_precision.py
	$(BIN)/python benchmarks/openvino_speed.py
	$(BIN)/python benchmarks/cpu_engines.py

# Every method and baseline on the real scenes in HSI_DATA: hours, and goes on where it
# was stopped.
accuracy: .venv/dev
	$(BIN)/python benchmarks/accuracy.py

# onnxruntime-gpu takes the place of onnxruntime, so it has an environment of its own.
# TensorRT is left out where NVIDIA's package index cannot be reached; it is named then.
.venv-gpu/all gpu: BIN = .venv-gpu/bin

.venv-gpu/all: constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv-gpu
	$(PIP) torch
	$(PIP) -e '.[dev]'
	$(BIN)/pip uninstall -q -y onnxruntime onnxruntime-gpu
	$(PIP) -e '.[gpu]'
	-$(PIP) -e '.[tensorrt]'
	touch $@

# Needs a GPU: 12 minutes in which every figure is measured that needs one, then the
# tests marked gpu. Without one, `benchmarks/gpu.py --dry-run` tries the script.
gpu: .venv-gpu/all
	$(BIN)/python benchmarks/gpu.py
	$(BIN)/python -m pytest -q -m gpu

clean:
	rm -rf .venv .venv-gpu build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
