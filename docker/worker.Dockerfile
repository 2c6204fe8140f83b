# The worker, for hosts with and without a GPU: torch includes the CUDA libraries, and uses the CPU if there is no GPU.
# Layers that change least come first, so that a new release of Duet only replaces the last ones.
FROM python:3.12-slim-bookworm

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore

# On a GPU, Triton compiles kernels when they are first used, which needs a C compiler.
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

RUN groupadd --gid 10001 duet \
    && useradd --uid 10001 --gid duet --home-dir /data --no-create-home --shell /usr/sbin/nologin duet \
    && install -d -o duet -g duet /data /data/tmp /gpus

# Another package index for the builds: PIP_INDEX_URL=… docker compose build
ARG PIP_INDEX_URL
COPY docker/requirements-torch.txt /requirements/
RUN pip install --quiet --no-deps --require-hashes --requirement /requirements/requirements-torch.txt
COPY docker/requirements-worker.txt /requirements/
RUN pip install --quiet --no-deps --require-hashes --requirement /requirements/requirements-worker.txt

COPY pyproject.toml README.md LICENSE /source/
COPY model /source/model
COPY service /source/service
COPY workers /source/workers
COPY duet /source/duet
RUN pip install --quiet --no-deps --no-build-isolation /source && rm -rf /source \
    && python -c "import duet.cli, workers.app, workers.model_maker"

ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Duet worker" \
      org.opencontainers.image.description="Makes the clips: joint audio-video diffusion on a GPU or a CPU" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# TMPDIR: decoded files may be larger than /tmp, which is in memory.
ENV DUET_DATA=/data \
    DUET_LOG_FORMAT=json \
    TMPDIR=/data/tmp \
    GOMP_SPINCOUNT=20000 \
    TRITON_CACHE_DIR=/data/cache/triton \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
WORKDIR /data
CMD ["duet", "worker"]
