"""Python imports this module at the start of each process of a job.

FLARE_FRAMES names a folder in which every frame that the process sends is kept. ``SfmConnection.send_frame`` is the
one way out of a process of NVFlare: cell messages, task results, aux messages and chunks of streams all pass it,
before TLS. A frame is appended to a file with the sender's name and process id; what a training script in a process
of its own sends to its site is in files "script-of-...". FLARE_KILL is "NAME:NUMBER": a process of this name
is killed instead of sending so many of the protocol's answers.

FLARE_WITHOUT names a package that can't be imported. Where PyTorch is installed, NVFlare imports it at the end of
each job, which takes seconds, and only PyTorch's jobs need it.

The simulator gets its ports from ``tests.flare.ports``. To see that a port is free, NVFlare listens on it for a
moment. If the simulator starts another site's process in this moment, that process inherits the socket, and keeps
it open until its program runs. The simulator may then connect to that socket instead of to its own site, and the
connection is reset. NVFlare ends the site, and its server waits for the site's result for ever.
"""

import os
import signal
import struct
import sys
import threading
from pathlib import Path

from nvflare.private.fed.app.deployer import simulator_deployer
from nvflare.private.fed.app.simulator import simulator_runner

from tests.flare.ports import reserve

simulator_deployer.get_open_ports = simulator_runner.get_open_ports = reserve

if package := os.environ.get("FLARE_WITHOUT"):
    sys.modules[package] = None

if folder := os.environ.get("FLARE_FRAMES"):
    from nvflare.fuel.f3.sfm import sfm_conn

    lock, answers = threading.Lock(), []
    victim, _, last = os.environ.get("FLARE_KILL", "").partition(":")
    send_frame = sfm_conn.SfmConnection.send_frame

    def keep(self, prefix, headers, payload):
        data = bytes(sfm_conn.SfmConnection.headers_to_bytes(headers) or b"") + bytes(payload or b"")
        sender, receiver = self.local_endpoint.name, getattr(self.sfm_endpoint, "endpoint", None)
        name = sender.replace("/", "_").replace(".", "+")
        if name == victim and b"attempt" in data:
            answers.append(name)
            if len(answers) == int(last):
                os.kill(os.getpid(), signal.SIGKILL)
        if receiver is not None and sender.startswith(f"{receiver.name}.client_api_trainer"):
            name = f"script-of-{name}"
        with lock, (Path(folder) / f"{name}-{os.getpid()}").open("ab") as file:
            file.write(struct.pack(">Q", len(data)) + data)
        return send_frame(self, prefix, headers, payload)

    sfm_conn.SfmConnection.send_frame = keep
