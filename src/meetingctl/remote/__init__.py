"""From the operator to a device over SSH.

hosts       which host key a device must show
ways        which ways may lead to it: a direct address, the tunnel
banner      whether an SSH server answers at an address
tunnel      the tunnel as a way: opened, and waited for
route       the one that does, found by trying
session     a connection to a device with the right key
command     one command on a connection
openssh     the command line of OpenSSH's own client
access      the three together: what the commands call
"""
