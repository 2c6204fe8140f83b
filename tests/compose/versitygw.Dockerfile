# A base for docker/objects.Dockerfile where versitygw's own cannot be pulled. As there, the default user is root.
FROM python:3.12-slim-bookworm
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends wget && rm -rf /var/lib/apt/lists/*
COPY requirements-dev.lock /
ARG PIP_INDEX_URL
# pip accepts no constraints with hashes unless every package has one: only the versions come from the lock.
RUN sed -n 's/^\([a-zA-Z0-9._-]*==[^ ]*\).*/\1/p' /requirements-dev.lock >/constraints \
    && pip install --quiet --constraint /constraints "moto[server]"
COPY tests/compose/versitygw.py /usr/local/bin/versitygw
RUN chmod 755 /usr/local/bin/versitygw
