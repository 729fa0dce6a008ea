"""Time: paired rounds, latency, shares by region, and the speed of the machine itself."""
