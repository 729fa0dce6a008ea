"""The bundled tasks, one per file, and what they are made of."""
