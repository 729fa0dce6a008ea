"""How a model routes, and what stands between it and deployment."""
