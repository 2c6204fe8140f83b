FROM python:3.12-slim-bookworm
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements.lock /
ARG PIP_INDEX_URL
RUN pip install --quiet --constraint /requirements.lock "moto[server]" && install -d -o 10001 /objects
USER 10001:10001
CMD ["moto_server", "--host", "0.0.0.0", "--port", "7070"]
