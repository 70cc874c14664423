"""torchrun, which says what it waits for, and in one line why it cannot start.

Arguments, from tools/_launch.sh: LAUNCHER NODES NODE ADDRESS PORT TIMEOUT [options of torchrun].
"""

import os
import sys

os.environ['TORCH_CPP_LOG_LEVEL'] = 'FATAL'  # what follows is told below

from torch.distributed import DistError
from torch.distributed.run import main

del os.environ['TORCH_CPP_LOG_LEVEL']  # of the processes that are started

launcher, nodes, node, address, port, timeout, *options = sys.argv[1:]
if nodes != '1':
    others = f'{int(nodes) - 1} more of {nodes} machines'
    whom = others if node == '0' else 'the machine with NODE_RANK=0'
    print(f'{launcher}: waits up to {timeout} s for {whom} at {address}:{port}', flush=True)
os.environ['MMCONTNET_LAUNCHER'] = str(os.getpid())  # which its processes do not outlive
place = ['--nnodes', nodes, '--node-rank', node, '--rdzv-endpoint', f'{address}:{port}']
try:
    main([*place, '--rdzv-conf', f'timeout={timeout}', *options])
except DistError as error:
    reason = str(error).partition('\n')[0]
    sys.exit(f'{launcher}: error: cannot start at {address}:{port} (MASTER_ADDR, PORT): {reason}')
