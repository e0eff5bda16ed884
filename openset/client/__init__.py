"""What the command line and the demo need to talk to a daemon: HTTP, event files, type inference, tables of results."""
