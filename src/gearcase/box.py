"""The declaration of a box."""
