"""The load generator: open-loop traffic as a cluster really gets it, for any server of the kind."""
