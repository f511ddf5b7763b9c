"""Clusters for the end-to-end tests; see `tests.e2e.fixtures`."""

from tests.e2e.fixtures import client, cluster, etcd_server, models, shelf, store, tls

__all__ = ["client", "cluster", "etcd_server", "models", "shelf", "store", "tls"]
