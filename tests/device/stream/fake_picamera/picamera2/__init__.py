"""A stand-in for the camera of a Raspberry Pi: it plays the access units of a file, in a loop, at their rate."""

import json
import threading
import time
from pathlib import Path

HERE = Path(__file__).parent


class Picamera2:
    opened = 0

    def __init__(self, index=0):
        if Picamera2.opened:
            raise RuntimeError("Camera __init__ sequence did not complete")
        Picamera2.opened += 1
        self.camera_controls = {
            "Brightness": (-1.0, 1.0, 0.0),
            "ColourGains": (0.0, 32.0, (1.0, 1.0)),
            "AeEnable": (False, True, True),
        }
        self._stop = threading.Event()
        self._thread = None

    def create_video_configuration(self, main=None, controls=None):
        return {"main": main, "controls": controls}

    def configure(self, configuration):
        self._note({"configured": [*configuration["main"]["size"], configuration["controls"]["FrameRate"]]})
        self._fps = configuration["controls"]["FrameRate"]

    def set_controls(self, controls):
        self._note({"controls": controls})

    def capture_metadata(self):
        return {"Brightness": 0.25}

    def start_recording(self, encoder, output):
        units = split_units((HERE / "units.h264").read_bytes())
        self._thread = threading.Thread(target=self._play, args=(units, output), daemon=True)
        self._thread.start()

    def stop_recording(self):
        self._stop.set()
        self._thread.join(5)

    def close(self):
        Picamera2.opened -= 1

    def _play(self, units, output):
        began, number = time.monotonic(), 0
        while not self._stop.wait(max(0.0, began + number / self._fps - time.monotonic())):
            output.outputframe(units[number % len(units)], True, number)
            number += 1

    def _note(self, fact):
        with (HERE / "calls.jsonl").open("a") as file:
            file.write(json.dumps(fact) + "\n")


def split_units(stream):
    """Cut a byte stream at its access unit delimiters."""
    mark = b"\x00\x00\x00\x01\x09"
    return [mark + part for part in stream.split(mark)[1:]]
