"""SSH keys: of devices, of this server and its host, and what sshd asks about them."""
