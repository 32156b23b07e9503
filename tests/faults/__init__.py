"""The gateway as a process, and what happens when something breaks."""
