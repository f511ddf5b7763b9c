"""Settings of all tests."""

from __future__ import annotations

import os

# Tests fork children that gRPC knows nothing of; its handlers would end them. It reads this when it is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

from hypothesis import HealthCheck, settings

# A slow machine is no failure. In CI the examples are the same at each run; elsewhere they are new ones.
settings.register_profile(
    "project", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=bool(os.environ.get("CI"))
)
settings.load_profile("project")
