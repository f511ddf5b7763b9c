"""How each server is started: all on one core, one worker each, the faster setting where there are two.

Contract: a starter begins one server in `site.directory` and returns at once; `bench.peers.fleet` waits for its
answers. What belongs to a server is what its root processes started. Settings that matter are in the starters'
docstrings, and the page of results repeats them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench.fleet import pins
from bench.models import BenchModel
from bench.peers import venvs
from bench.peers.processes import stop_tree
from bench.peers.protocols import JSON, OIP, SCORE, TENSOR, Speech, row_of
from ops.etcd_server import free_port
from ops.process import ChildProcess

_REPOSITORY = Path(__file__).parent.parent.parent
_TRITON_CONFIG = """name: "{name}"
backend: "python"
max_batch_size: 1024
input [{{ name: "{tensor}" data_type: TYPE_FP64 dims: [{features}] }}]
output [{{ name: "predict" data_type: TYPE_FP64 dims: [1] }}]
instance_group [{{ kind: KIND_CPU count: 1 }}]
"""
_TRITON_BATCHING = "dynamic_batching { }\n"


class Site(NamedTuple):
    """Where servers are started, with which models. `stack` ends them."""

    stack: contextlib.ExitStack
    directory: Path
    models: Sequence[BenchModel]

    @property
    def index(self) -> Path:
        """A file with the models' files by their names."""
        path = self.directory / "index.json"
        if not path.exists():
            path.write_text(json.dumps({model.ref.model: str(model.path) for model in self.models}))
        return path

    def start(self, name: str, argv: Sequence[str], env: Mapping[str, str], pin: bool = True) -> ChildProcess:
        """Start a process, with `pin` on the servers' core from the beginning."""
        folder = self.directory / name
        folder.mkdir(exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **env}
        child = ChildProcess([*(pins()[0] if pin else ()), *argv], folder / "log", environment)
        self.stack.callback(stop_tree, child)
        return child


class Served(NamedTuple):
    """A running server. `roots`: its processes, with all that they started. `metadata`: the header of a request that
    names its model, where there has to be one.
    """

    name: str
    speech: Speech
    port: int
    roots: Sequence[int]
    metadata: str = ""


Starter = Callable[[Site], Served]


def plain_server(site: Site) -> Served:
    """grpc.aio, our protos, all in one process."""
    port = free_port()
    argv = [sys.executable, "-m", "bench.peers.served.plain_server", "--index", str(site.index), "--port", str(port)]
    return Served("grpc.aio server", SCORE, port, [site.start("plain", argv, _ours()).pid])


def mlserver(site: Site) -> Served:
    """No parallel workers (inference in the server's process, which is faster for models this small); `debug`, that is
    the access log, off; metrics on, as they are by default.
    """
    folder, ports = site.directory / "mlserver", [free_port() for _ in range(3)]
    for model in site.models:
        home = folder / "models" / model.ref.model
        home.mkdir(parents=True)
        settings = {"name": model.ref.model, "implementation": "mlserver_lightgbm.LightGBMModel"}
        (home / "model-settings.json").write_text(json.dumps({**settings, "parameters": {"uri": str(model.path)}}))
    options = {"debug": False, "host": "127.0.0.1", "parallel_workers": 0, "metrics_dir": str(folder)}
    names = ("grpc_port", "http_port", "metrics_port")
    (folder / "models" / "settings.json").write_text(json.dumps({**options, **dict(zip(names, ports, strict=True))}))
    argv = [str(venvs.python("mlserver").with_name("mlserver")), "start", str(folder / "models")]
    return Served("MLServer", OIP, ports[0], [site.start("mlserver", argv, {}).pid])


def ray(site: Site, multiplexed: int = 0) -> Served:
    """One replica behind the gRPC proxy, access log off, no dashboard. `multiplexed`: models in memory; 0 for all.
    Confined to the servers' core only when it has come up, for which it gives itself 30 s.
    """
    name, port = f"ray-{multiplexed}", free_port()
    (site.directory / name).mkdir()
    options = {"--index": str(site.index), "--port": str(port), "--http-port": str(free_port())}
    # Ray's sockets have long names, for which a directory of a few characters is left.
    options |= {"--directory": str(site.directory / name), "--multiplexed": str(multiplexed)}
    argv = [str(venvs.python("ray")), "-m", "bench.peers.served.ray_app", *_words(options)]
    env = {**_ours(), "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    header = "multiplexed_model_id" if multiplexed else ""
    return Served("Ray Serve", SCORE, port, [site.start(name, argv, env, pin=False).pid], header)


def triton(site: Site, batching: bool = False) -> Served:
    """One instance of the Python backend for each model, HTTP and metrics off. `batching`: with Triton's dynamic
    batching, without delay; its default is none.
    """
    name = "triton-batching" if batching else "triton"
    folder, port = site.directory / name, free_port()
    packages = venvs.packages("triton")
    home = packages / "pytriton" / "tritonserver"
    shutil.copytree(home / "backends", folder / "backends")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    shutil.copy(home / "python_backend_stubs" / version / "triton_python_backend_stub", folder / "backends" / "python")
    for model in site.models:
        _triton_model(folder / "models" / model.ref.model, model, _TRITON_BATCHING if batching else "")
    options: dict[str, object] = {"model-repository": folder / "models", "backend-directory": folder / "backends"}
    options |= {"grpc-address": "127.0.0.1", "grpc-port": port, "allow-http": "false", "allow-metrics": "false"}
    argv = [str(home / "bin" / "tritonserver"), *(f"--{name}={value}" for name, value in options.items())]
    argv.append("--backend-config=python,shm-default-byte-size=4194304")
    env = {"LD_LIBRARY_PATH": str(packages / "nvidia_pytriton.libs"), "BENCH_SITE_PACKAGES": str(packages)}
    title = "Triton, Python backend" + (", dynamic batching" if batching else "")
    return Served(title, OIP, port, [site.start(name, argv, env).pid])


def _triton_model(home: Path, model: BenchModel, more: str) -> None:
    (home / "1").mkdir(parents=True)
    shutil.copy(Path(__file__).parent / "served" / "triton_model.py", home / "1" / "model.py")
    shutil.copy(model.path, home / "1" / "model.txt")
    values = {"name": model.ref.model, "tensor": TENSOR, "features": len(row_of(model))}
    (home / "config.pbtxt").write_text(_TRITON_CONFIG.format(**values) + more)


def bentoml(site: Site) -> Served:
    """One worker, access log off. HTTP/1.1 with JSON: services of BentoML 1.4 don't serve gRPC."""
    port = free_port()
    argv = [str(venvs.python("bentoml")), "-m", "bentoml", "serve", "bench.peers.served.bento_service:Scorer"]
    argv += ["--host", "127.0.0.1", "--port", str(port)]
    home = {"BENTOML_HOME": str(site.directory / "bentoml"), "BENTOML_DO_NOT_TRACK": "True"}
    env = {**_ours(), **home, "BENCH_INDEX": str(site.index)}
    return Served("BentoML (HTTP)", JSON, port, [site.start("bentoml", argv, env).pid])


def _ours() -> dict[str, str]:
    return {"PYTHONPATH": f"{_REPOSITORY}{os.pathsep}{_REPOSITORY / 'protos'}"}


def _words(options: Mapping[str, str]) -> list[str]:
    return [word for option in options.items() for word in option]


# By the name of the virtual environment that each needs; "" for ours.
STARTERS: Sequence[tuple[str, Starter]] = (
    ("", plain_server),
    ("mlserver", mlserver),
    ("ray", ray),
    ("triton", triton),
    ("triton", partial(triton, batching=True)),
    ("bentoml", bentoml),
)
