"""Another release onto devices over SSH.

source      the package on this side: read, checked, unpacked
plan        facts and wishes in, steps out
far_update  what works on the device: looks, and puts the package together there
upload      files to the device, going on where a try ended
job         one device and how far its update is
stages      what is done in each stage of a job
run         a job over as many connections as it takes
report      what the fleet server hears of it
rollout     which devices are due, as the server decides
"""
