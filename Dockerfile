# syntax=docker/dockerfile:1
# Images for running exported models (cpu, gpu, jetson) and for training (train): no
# compiler, no root.
#
#   docker build --target cpu -t hsi-edge:cpu .
#   docker run --rm --user "$(id -u)" -v "$PWD:/data" hsi-edge:cpu scene.tif -m model.onnx
#
# Behind a mirror: --build-arg PIP_INDEX_URL=...

ARG JETSON_BASE=ubuntu:24.04

FROM python:3.12-slim-bookworm AS wheel
ARG PIP_INDEX_URL
WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY train train
COPY export export
COPY runtime runtime
RUN pip install --no-cache-dir -c constraints.txt hatchling \
    && pip wheel --no-cache-dir --no-build-isolation --no-deps --wheel-dir /wheels .

FROM python:3.12-slim-bookworm AS base
ARG PIP_INDEX_URL
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
RUN useradd --create-home --uid 1000 hsi && mkdir /data && chown hsi /data
COPY constraints.txt /opt/constraints.txt
WORKDIR /data

# Running: healthy means that the engine here gives what training computed, with the
# model that is served ($HSI_MODEL, else model.onnx in /data); without one, unhealthy.
FROM base AS run
ENTRYPOINT ["hsi-run"]
CMD ["--help"]
HEALTHCHECK --interval=10m --timeout=2m --start-period=1m \
    CMD ["sh", "-c", "hsi-run --self-test --quiet || exit 1"]

FROM run AS cpu
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir -c /opt/constraints.txt \
    "$(echo /wheels/hsi_edge-*.whl)[cpu]"
USER 1000

# Needs a CUDA 13 driver and the NVIDIA container toolkit on the host.
FROM run AS gpu
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir -c /opt/constraints.txt \
    "$(echo /wheels/hsi_edge-*.whl)[gpu]"
USER 1000

# All three commands. The torch of the package index runs on CPU and CUDA and is large.
FROM base AS train
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir -c /opt/constraints.txt \
    "$(echo /wheels/hsi_edge-*.whl)[export,cpu]"
USER 1000
HEALTHCHECK NONE
CMD ["hsi-train", "--help"]

# TensorRT and its Python bindings come from the base image, never from pip: give one
# that has those of your JetPack. The default base has none, and runs on the CPU.
# hadolint ignore=DL3006
FROM ${JETSON_BASE} AS jetson
ARG PIP_INDEX_URL
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PATH=/opt/hsi/bin:$PATH
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*
COPY constraints.txt /opt/constraints.txt
RUN python3 -m venv --system-site-packages /opt/hsi && mkdir -p /data && chown 1000 /data
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir -c /opt/constraints.txt \
    "$(echo /wheels/hsi_edge-*.whl)[cpu]" "cuda-bindings>=13,<14"
WORKDIR /data
USER 1000
ENTRYPOINT ["hsi-run"]
CMD ["--help"]
HEALTHCHECK --interval=10m --timeout=2m --start-period=1m \
    CMD ["sh", "-c", "hsi-run --self-test --quiet || exit 1"]
