"""The ONVIF service of a camera: a Profile S/T-style subset that recorders and home automation use."""
