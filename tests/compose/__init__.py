"""Tests of the container files, and of the running stack of docker-compose.yml (`python -m tests.compose`)."""
