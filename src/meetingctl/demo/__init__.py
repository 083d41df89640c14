"""A fleet of one device on loopback, in one process and on real parts.

stage       puts the parts together and takes them apart again
device      the demo device's entry in the registry, made through the API
sshd        the device's SSH server
shell       what runs in one of its sessions
processes   what shells leave behind, and its end
page        the device's status page
"""
