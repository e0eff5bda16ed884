"""Replays simulated histories of a cluster: `python tests/cluster/replay.py SEED [LAST_SEED]`; one with a trace."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from support.cluster_simulator import InvariantBroken, simulation_of


def main() -> int:
    first, last = int(sys.argv[1]), int(sys.argv[-1])
    failed = 0
    for seed in range(first, last + 1):
        simulation = simulation_of(seed, trace=first == last)
        try:
            simulation.run()
        except (InvariantBroken, AssertionError) as error:
            print(f"seed {seed}: {error}")
            failed += 1
    print(f"{last - first + 1} histories, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
