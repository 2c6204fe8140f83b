"""The service around the model: HTTP API, job record and store, object storage, settings. No torch here."""
