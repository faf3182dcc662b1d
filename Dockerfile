# syntax=docker/dockerfile:1
# astrojax on NVIDIA GPUs with CUDA 12:
#   docker build -t astrojax .
#   mkdir -p runs
#   docker run --gpus all --user "$(id -u):$(id -g)" -v "$PWD/runs:/app/runs" astrojax --config configs/llm.py

FROM nvidia/cuda:12.9.1-base-ubuntu24.04 AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3.12 python3.12-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3.12 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1
WORKDIR /app
# Dependencies first: they change less often than the code, so that the layer is kept between builds.
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY astrojax/__init__.py astrojax/__init__.py
RUN pip install -c requirements.lock '.[cuda12,graphs,tensorboard,wandb]' && pip uninstall -y astrojax
COPY astrojax astrojax
RUN pip install --no-deps .

FROM nvidia/cuda:12.9.1-base-ubuntu24.04
# RDKit draws molecules with libraries of X, of which its wheel lacks these.
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3.12 libxrender1 libxext6 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 astrojax
COPY --from=build /opt/venv /opt/venv
WORKDIR /app
COPY launch.py ./
COPY configs configs
COPY data data
RUN mkdir runs && chown astrojax runs
USER astrojax
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 HOME=/tmp
VOLUME /app/runs
# Healthy while a run writes: its metrics, or (evaluating) its results, changed within the last half hour.
HEALTHCHECK --interval=5m --timeout=30s --start-period=30m \
    CMD find runs -name '*.json*' -mmin -30 | grep -q .
ENTRYPOINT ["python", "launch.py"]
CMD ["--config", "configs/llm.py"]
