"""What is measured, one quantity per file: FLOPs, time, memory, energy. Units are in the names."""
