"""What the images hold, and that the stack of docker-compose.yml works (`python -m tests.compose`)."""
