# syntax=docker/dockerfile:1
# Images that run an exported model: no torch, no compiler, no root.
#
#   docker build --target cpu -t hsi-edge:cpu .
#   docker run --rm -v "$PWD:/data" hsi-edge:cpu scene.tif -m model.onnx

FROM python:3.12-slim-bookworm AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY train train
COPY export export
COPY runtime runtime
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim-bookworm AS base
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
RUN useradd --create-home --uid 1000 hsi && mkdir /data && chown hsi /data
COPY constraints.txt /opt/constraints.txt
WORKDIR /data
ENTRYPOINT ["hsi-run"]
CMD ["--help"]

FROM base AS cpu
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir -c /opt/constraints.txt \
    "$(echo /wheels/hsi_edge-*.whl)[cpu]"
USER hsi

# Needs a CUDA 13 driver and the NVIDIA container toolkit on the host.
FROM base AS gpu
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir -c /opt/constraints.txt \
    "$(echo /wheels/hsi_edge-*.whl)[gpu]"
USER hsi
