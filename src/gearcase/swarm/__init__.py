"""Many workers: a map of a prompt over the shards of an input, whose account always adds up."""
