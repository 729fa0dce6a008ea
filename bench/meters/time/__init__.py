"""Time: paired rounds, latency, regions, and the machine's own speed."""
