"""What etcd says of itself: reads it served, its size. Source: etcd's documentation, "Metrics"."""

from __future__ import annotations

import urllib.request
from typing import NamedTuple

_RANGES = "etcd_mvcc_range_total"
_SIZE = "etcd_mvcc_db_total_size_in_use_in_bytes"
_RSS = "process_resident_memory_bytes"


class EtcdFigures(NamedTuple):
    """`reads`: ranges that its store served since it started, those inside transactions among them."""

    reads: int
    database_mib: float
    rss_mib: float


def etcd_figures(endpoint: str) -> EtcdFigures:
    """Ask now. `endpoint`: host:port."""
    with urllib.request.urlopen(f"http://{endpoint}/metrics", timeout=10) as answer:
        found = parse(answer.read().decode())
    return EtcdFigures(int(found[_RANGES]), found[_SIZE] / 2**20, found[_RSS] / 2**20)


def parse(text: str) -> dict[str, float]:
    """Metrics without labels, by name, of Prometheus's text format."""
    lines = [line.rpartition(" ") for line in text.splitlines() if line and line[0] != "#" and "{" not in line]
    return {name: float(value) for name, _, value in lines}
