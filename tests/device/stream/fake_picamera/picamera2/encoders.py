class H264Encoder:
    def __init__(self, bitrate=None, repeat=False, iperiod=None, framerate=None, profile=None, qp=None):
        self.settings = (bitrate, repeat, iperiod, framerate, profile, qp)
