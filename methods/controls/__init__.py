"""Controls: dense, a smaller dense model, random decisions, the best decisions in hindsight."""
