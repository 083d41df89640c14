"""The stream daemon: one camera, proxy, MJPEG, screen or test source, served over RTSP."""
