"""`python -m meetingctl` is the same as the `meetingctl` command."""

from meetingctl.cli.main import main

if __name__ == "__main__":
    main()
