"""`python -m duet` is `duet`."""

from duet.cli import app

if __name__ == "__main__":
    app()
