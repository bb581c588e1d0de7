"""The door to a Redis database: a throw-away server, empty, a branch, or one whose content stays for the next run."""
