"""The gateway without sockets and files: its entrypoint in a Runtime, over scripted fakes."""
