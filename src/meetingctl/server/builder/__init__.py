"""Distribution builds: files and a manifest that become one archive, which can be published."""
