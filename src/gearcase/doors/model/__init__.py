"""The model door: metered calls of models, with keys that stay outside."""
