"""`/v1/videos`: the dialect of OpenAI's and vLLM-Omni's video clients, over the same jobs as all other routes."""
