"""Prometheus metrics of the API, and their export from any process."""

from prometheus_client import disable_created_metrics

# No `_created` series: they would double the output and are not used.
disable_created_metrics()
