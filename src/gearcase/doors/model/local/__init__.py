"""The local model: which there are, how they come here, the server that runs one, and the shim that lets it call tools."""
