"""What Prometheus reads of the API, and how any process shows it what it counts."""

from prometheus_client import disable_created_metrics

# When each series began, as a series of its own: twice as much to read, and nobody asks for it.
disable_created_metrics()
