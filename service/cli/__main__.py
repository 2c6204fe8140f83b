"""`python -m service.cli` is `duet`."""

from service.cli import app

if __name__ == "__main__":
    app()
