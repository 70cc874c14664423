# syntax=docker/dockerfile:1
# An environment in which everything runs, made by the same script as everywhere else:
#
#   docker build -t mmcontnet .
#   docker run --rm -it --shm-size 8g -v "$PWD/work_dirs:/mmcontnet/work_dirs" mmcontnet tools/quickstart.sh
#
# For GPUs, the base image needs the CUDA toolkit in the version of PyTorch's; run it with `--gpus all`:
#
#   docker build -t mmcontnet --build-arg BASE=nvidia/cuda:12.8.1-devel-ubuntu22.04 --build-arg FORCE_CUDA=1 .
ARG BASE=python:3.11-bookworm
# hadolint ignore=DL3006
FROM ${BASE}

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ git python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /mmcontnet
COPY . .
# FORCE_CUDA=1 compiles mmcv's CUDA operators, for the cards named, where no GPU is seen.
ARG FORCE_CUDA=0
ARG TORCH_CUDA_ARCH_LIST="7.5;8.0;8.6;8.9;9.0+PTX"
# The cache outlives a build, and mmcv is compiled once.
RUN --mount=type=cache,target=/root/.cache bash -c 'source tools/_env.sh --dev'
ENV PATH=/mmcontnet/.venv/bin:$PATH
CMD ["bash"]
