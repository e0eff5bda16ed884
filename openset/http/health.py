"""GET /health: whether the node takes changes, and what it knows to be damaged."""

from __future__ import annotations

from typing import Any

from openset.http.cluster_status import health
from openset.http.resource import Answer, Resource
from openset.store.health import Condition


class HealthResource(Resource):
    uses_store = False

    async def get(self) -> None:
        await self.respond(self._health())

    async def _health(self) -> Answer:
        self.parameters().finish()
        store, scrubber = self.node.open_store, self.node.scrubber
        if store is None:
            return {"status": "starting"}
        if self.node.cluster.identity.mode == "removed":
            return {"status": "removed"}
        last = scrubber.last if scrubber is not None else None
        return {
            **_status(store.health.condition),
            **self._cluster(),
            "damage": [
                {"file": one.file, "dataset": one.dataset, "offset": one.offset, "message": one.message}
                for one in store.damage.all()
            ],
            "scrub": None
            if last is None
            else {"at": last.ended_ms, "files": last.files, "bytes": last.size_bytes, "damaged": last.damaged},
        }

    def _cluster(self) -> dict[str, Any]:
        """Of a member, whether the others hold it for alive, and how the cluster is, as it knows it."""
        membership = self.node.membership
        if membership is None:
            return {}
        view = membership.view
        assert view.map is not None, "a membership has seen its cluster"
        found = health(view, view.map.replicas, membership.trouble)
        told = {name: found[name] for name in ("status", "reason") if name in found}
        return {"cluster": {"node": membership.node, "alive": membership.node in view.alive, **told}}


def _status(condition: Condition) -> dict[str, Any]:
    if condition.state == "ok":
        return {"status": "ok"}
    until = "space" if condition.state == "full" else "restart"
    return {"status": "read_only", "reason": condition.reason, "since": condition.since_ms, "until": until}
