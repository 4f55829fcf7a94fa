# Training, on one machine or several: requirements-train.lock. How to use it: docker/README.md.
# CUDA's compiler is there because DeepSpeed and flash-attn compile with it; its version is that of the locked PyTorch.
ARG CUDA=13.0.2
FROM nvidia/cuda:${CUDA}-devel-ubuntu24.04

SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# pdsh and ssh start the ranks of other machines; python3-pip fetches uv, and uv fetches Python 3.11.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        build-essential ca-certificates git openssh-client openssh-server pdsh python3-pip \
    && rm -rf /var/lib/apt/lists/* \
    && mkdir --parents /run/sshd

# One layer for the packages: it is built again when the lock changes, not with every line of code.
ENV UV_LINK_MODE=copy UV_NO_CACHE=1 UV_PYTHON_INSTALL_DIR=/opt/python
WORKDIR /songbloom
COPY Makefile requirements-train.lock ./
RUN make .uv/bin/uv PYTHON=python3 \
    && make .venv-train/.packages PYTHON=3.11

# Songs that are packed use PyTorch's own kernel, so flash-attn is not needed. --build-arg FLASH_ATTN=1 compiles it,
# without build isolation, for the GPUs named (80: A100, 90: H100); each of the MAX_JOBS compilers takes up to 10 GB.
ARG FLASH_ATTN=0
ARG MAX_JOBS=4
ARG FLASH_ATTN_CUDA_ARCHS="80;90"
COPY pyproject.toml README.md LICENSE ./
RUN if [ "$FLASH_ATTN" = 1 ]; then \
        MAX_JOBS="$MAX_JOBS" FLASH_ATTN_CUDA_ARCHS="$FLASH_ATTN_CUDA_ARCHS" make flash VENV=.venv-train PYTHON=3.11; fi

COPY . .
RUN make setup-train PYTHON=3.11

# A home that whoever runs the container may write to, also with --user: what DeepSpeed and Triton compile goes there.
# Ubuntu's image has a user of that number already.
RUN (userdel --remove ubuntu || true) \
    && useradd --uid 1000 --create-home --shell /bin/bash songbloom \
    && mkdir --parents /data /models \
    && chown songbloom /data /models \
    && chmod 1777 /home/songbloom /data /models
ENV HOME=/home/songbloom \
    HF_HOME=/models \
    LOGNAME=songbloom \
    PATH=/songbloom/.venv-train/bin:$PATH \
    PYTHONSAFEPATH=1
USER 1000
WORKDIR /data

# A run ends by itself; its progress is in runs/, so there is no health to ask for.
HEALTHCHECK NONE
CMD ["deepspeed", "/songbloom/model/train.py", "--config", "full.yaml"]
