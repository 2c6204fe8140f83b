"""The numerics of Duet: networks, samplers, guidance, pipeline and media. Knows nothing of the service around it."""
