# The API and everything else that needs no torch: the webhook sender, the creation of the bucket, `duet doctor`.
# Layers that change least come first, so that a new release of Duet only replaces the last ones.
FROM python:3.12-slim-bookworm

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore

RUN groupadd --gid 10001 duet \
    && useradd --uid 10001 --gid duet --home-dir /data --no-create-home --shell /usr/sbin/nologin duet \
    && install -d -o duet -g duet /data /data/tmp /secrets

# Another package index for the builds: PIP_INDEX_URL=… docker compose build
ARG PIP_INDEX_URL
COPY docker/requirements-api.txt /requirements/
RUN pip install --quiet --no-deps --require-hashes --requirement /requirements/requirements-api.txt

COPY pyproject.toml README.md LICENSE /source/
COPY model /source/model
COPY service /source/service
COPY workers /source/workers
COPY duet /source/duet
RUN pip install --quiet --no-deps --no-build-isolation /source && rm -rf /source \
    && python -c "import service.app, duet.cli, duet.doctor, service.webhooks.dispatcher"

ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Duet API" \
      org.opencontainers.image.description="HTTP API, studio page and webhooks of Duet; without torch" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# TMPDIR: an upload may be larger than /tmp, which is in memory.
ENV DUET_DATA=/data \
    DUET_HOST=0.0.0.0 \
    DUET_LOG_FORMAT=json \
    TMPDIR=/data/tmp
USER 10001:10001
WORKDIR /data
EXPOSE 8000
CMD ["duet", "api"]
