"""Where the work of maps executes: in this process (`local`), or on the nodes of a Ray cluster (`ray`)."""
