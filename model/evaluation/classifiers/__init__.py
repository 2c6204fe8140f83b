"""Two small classifiers of events in clips of `bounce`, trained by this package: features for distances."""
