"""Upstreams: what a model door talks to. Each implements `seams.Upstream`: one attempt a call, no retries."""
