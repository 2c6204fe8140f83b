"""Does this installation compute what it should? `python -m model.verify DIR` holds it against recorded numbers."""
