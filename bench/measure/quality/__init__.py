"""Quality on the test split, and on harder inputs."""
