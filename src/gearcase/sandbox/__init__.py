"""Isolation: one live, limited place for each agent. `namespaces.NamespacesDriver` is the default driver."""
