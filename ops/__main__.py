"""The `scoremesh` command; `ops.commands` has what it does."""

from __future__ import annotations

import os

from registry.process import end_with


def main() -> None:
    """Run it with gRPC's own log off, as one line of ours says what is wrong. gRPC reads this when it's imported."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from ops.commands import run

    end_with(run)


if __name__ == "__main__":
    main()
