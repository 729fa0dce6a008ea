"""One trunk on images of several sizes."""
