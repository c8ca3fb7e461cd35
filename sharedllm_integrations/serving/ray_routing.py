"""Which replica gets a request: the one that has its memory open, unless that one is busy.

Ray's own multiplexing keeps to the replicas that have loaded a model until they are full, and its
``ConsistentHashRouter`` as well. Full is late here: a replica takes many more requests than it
answers at once, for its own line says 429 and when to come again; and a server of one memory would
never use a second replica. So this is consistent hashing with a bound on the load.
"""

from __future__ import annotations

import hashlib
from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica


class HomeRouter(RequestRouter):  # type: ignore[misc]  # Ray's classes are Any here
    """Sends what has the same ``session_id`` to the same replica.

    Every router finds the same one without asking (rendezvous hashing), and when a replica comes or
    goes only its own part of the requests moves. Beyond `busy` requests the next one is taken; if
    all have as many, the one that has the fewest.
    """

    _busy = 1

    def initialize_state(self, *, busy: int = 1, **_: Any) -> None:
        """Take the router's settings: requests that a replica answers at once."""
        self._busy = busy

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """The replicas to try, the best first; Ray takes the least loaded of those in one list."""
        if pending_request is None or not candidate_replicas:
            return [candidate_replicas]
        # Ray waits between rounds of this, in which nobody had room
        pending_request.routing_context.should_backoff = True
        home = pending_request.metadata.session_id or pending_request.metadata.internal_request_id
        order = sorted(candidate_replicas, key=lambda one: _weight(home, one))
        held = self.replica_queue_len_cache
        free = [one for one in order if (held.get(one.replica_id) or 0) < self._busy]
        return [free[:1], order]


def _weight(home: str, replica: RunningReplica) -> bytes:
    return hashlib.sha256(f"{home} {replica.replica_id.unique_id}".encode()).digest()
