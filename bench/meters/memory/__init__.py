"""Memory: peak of live tensors, resident memory of a process, parameters."""
