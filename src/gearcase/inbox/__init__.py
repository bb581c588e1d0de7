"""What runs inside a box: standard library only, imports nothing of Gearcase."""
