"""Training processes of one thread each that average their weights every few steps.

On a machine that others use as well this beats threads, and beats averaging gradients at every step: nobody waits for
the slower core but at a meeting.
"""

import datetime
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist

PATIENCE = datetime.timedelta(minutes=15)


def start(command, size):
    """Runs `command` in `size` processes that meet through a file; SIGTERM goes on to the first, which stops all."""
    with tempfile.TemporaryDirectory() as folder:
        given = {"STICKERS_MEETING": str(Path(folder) / "meeting"), "STICKERS_SIZE": str(size)}
        team = [
            subprocess.Popen([sys.executable, *command], env={**os.environ, **given, "STICKERS_RANK": str(rank)})
            for rank in range(size)
        ]

        def stop(*_):
            for process in team:
                process.send_signal(signal.SIGTERM)

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        return max(process.wait() for process in team)


class Team:
    """This process among those that `start` has started; alone if it was not started by it."""

    def __init__(self):
        self.rank, self.size = int(os.environ.get("STICKERS_RANK", 0)), int(os.environ.get("STICKERS_SIZE", 1))
        if self.size > 1 and not dist.is_initialized():
            torch.set_num_threads(1)
            meeting = "file://" + os.environ["STICKERS_MEETING"]
            dist.init_process_group("gloo", init_method=meeting, rank=self.rank, world_size=self.size, timeout=PATIENCE)

    @torch.no_grad()
    def average(self, tensors):
        """Each tensor becomes its mean over the processes."""
        if self.size == 1:
            return
        flat = torch.cat([t.detach().flatten() for t in tensors]).div_(self.size)
        dist.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def most(self, value):
        """The largest value of all processes, as a float."""
        if self.size == 1:
            return float(value)
        found = torch.tensor([float(value)], dtype=torch.float64)
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return float(found)
