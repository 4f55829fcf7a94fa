# Cleaning and extraction, alone or as a node of a Ray cluster: requirements-pipeline.lock. Its use: docker/README.md.
# PyTorch brings its CUDA libraries along: a GPU needs the host's driver and NVIDIA's container toolkit only.
FROM python:3.11-slim-bookworm

SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# make builds the environment; wget is what KubeRay's probes call.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends make wget \
    && rm -rf /var/lib/apt/lists/*

# One layer for the packages: it is built again when the lock changes, not with every line of code.
ENV UV_LINK_MODE=copy UV_NO_CACHE=1
WORKDIR /songbloom
COPY Makefile requirements-pipeline.lock requirements-demo.lock ./
RUN make .venv-pipeline/.packages .venv-pipeline/.demo-weights
COPY . .
RUN make setup-pipeline

# A home that whoever runs the container may write to, also with --user: Ray and the model hub keep files there.
RUN useradd --uid 1000 --create-home songbloom \
    && mkdir --parents /data /models \
    && chown songbloom /data /models \
    && chmod 1777 /home/songbloom /data /models
ENV HOME=/home/songbloom \
    HF_HOME=/models \
    LOGNAME=songbloom \
    PATH=/songbloom/.venv-pipeline/bin:$PATH \
    PYTHONSAFEPATH=1 \
    RAY_USAGE_STATS_ENABLED=0
USER 1000
WORKDIR /data

# Asks the head below, without a token also where it wants one. Other commands: docker run --no-healthcheck.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 \
    CMD ["wget", "--quiet", "--output-document=-", "http://127.0.0.1:8265/api/gcs_healthz"]
EXPOSE 8265
# Listens inside the container only, so nobody needs a token. docker/README.md says how to open it.
CMD ["ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"]
