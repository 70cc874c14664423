"""torchrun, which says what it waits for, and in one line why it cannot start.

Arguments, from tools/_launch.sh: LAUNCHER NODES NODE ADDRESS PORT TIMEOUT [options of torchrun].
"""

import os
import sys
from threading import Event, Thread

os.environ['TORCH_CPP_LOG_LEVEL'] = 'FATAL'  # what follows is told below

from torch.distributed import DistError
from torch.distributed.elastic.rendezvous import (
    RendezvousInfo,
    RendezvousParameters,
    rendezvous_handler_registry,
)
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous
from torch.distributed.run import main

del os.environ['TORCH_CPP_LOG_LEVEL']  # of the processes that are started

NAME = 'told'
launcher, nodes, node, address, port, timeout, *options = sys.argv[1:]


class Rendezvous(StaticTCPRendezvous):
    """The meeting of all machines at the first one's port.

    PyTorch does not document StaticTCPRendezvous. It is what torchrun itself uses for machines with
    numbers; its documented kinds, c10d and etcd, number machines by themselves.
    """

    def get_backend(self) -> str:
        """Return what torchrun knows it by."""
        return NAME

    def next_rendezvous(self) -> RendezvousInfo:
        """Wait for the others, and say so every minute."""
        met = Event()
        if self.world_size > 1:
            Thread(target=self.tell, args=(met,), daemon=True).start()
        try:
            return super().next_rendezvous()
        except DistError as error:
            reason = str(error).partition('\n')[0]
            sys.exit(
                f'{launcher}: error: cannot start at {address}:{port} (MASTER_ADDR, PORT): {reason}'
            )
        finally:
            met.set()

    def tell(self, met: Event) -> None:
        """Say how long it will wait for whom."""
        others = f'{self.world_size - 1} more of {nodes} machines'
        whom = others if self.rank == 0 else 'the machine with NODE_RANK=0'
        for left in range(int(timeout), 0, -60):
            print(f'{launcher}: waits up to {left} s for {whom} at {address}:{port}', flush=True)
            if met.wait(60):
                break


def create(parameters: RendezvousParameters) -> Rendezvous:
    """Make it as torchrun asks for it."""
    count, name = parameters.max_nodes, parameters.run_id
    return Rendezvous(address, int(port), int(node), count, name, int(timeout))


rendezvous_handler_registry.register(NAME, create)
os.environ['MMCONTNET_LAUNCHER'] = str(os.getpid())  # which its processes do not outlive
main(['--nnodes', nodes, '--rdzv-backend', NAME, '--rdzv-endpoint', f'{address}:{port}', *options])
