"""Which models leave a scorer's memory first: demand, sampling, and tenants' shares. Pure."""
