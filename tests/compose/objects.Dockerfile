FROM python:3.12-slim-bookworm
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements-dev.lock /
ARG PIP_INDEX_URL
# pip takes no constraints with hashes where not everything that is installed has one: only the versions are of the lock.
RUN sed -n 's/^\([a-zA-Z0-9._-]*==[^ ]*\).*/\1/p' /requirements-dev.lock >/constraints \
    && pip install --quiet --constraint /constraints "moto[server]" && install -d -o 10001 /objects
USER 10001:10001
CMD ["moto_server", "--host", "0.0.0.0", "--port", "7070"]
