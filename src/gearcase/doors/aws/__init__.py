"""The door to a cloud account: simulated, or the real one with its credentials kept outside."""
