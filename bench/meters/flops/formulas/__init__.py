"""What each operation costs: FLOPs from the shapes and values of one call."""
