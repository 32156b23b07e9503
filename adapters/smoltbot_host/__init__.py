"""The composition root: reads the environment, opens the adapters, wires the gateway and runs it."""
