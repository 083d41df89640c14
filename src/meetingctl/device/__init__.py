"""What runs on the camera: configuration, stream, recorder, watchdog and the seam to the operating system."""
