"""The routes of the REST interface and the application that serves them."""

from __future__ import annotations

from typing import Any

from tornado.web import Application

from openset.http.cluster import ClusterInit, ClusterJoin, ClusterLeave, ClusterResource, IsMember
from openset.http.envelope import RouteError
from openset.http.erasure import Compaction, PersonResource
from openset.http.health import HealthResource
from openset.http.insert import Insert
from openset.http.internode_cluster import (
    AddNode,
    CoordinatorRequest,
    InternodeIsMember,
    IsClusterMember,
    JoinToCluster,
    MapChange,
    PartitionLoads,
    RunningTransfers,
    SentinelTold,
)
from openset.http.internode_data import (
    LogMessages,
    MemberCompaction,
    Stamps,
    TransferBegin,
    TransferEnd,
    TransferResource,
    Writes,
)
from openset.http.internode_query import InternodeQuery
from openset.http.internode_revent import InternodeRevent
from openset.http.logs import log_request
from openset.http.node import Node
from openset.http.ping import Ping
from openset.http.query_batch import BatchQuery
from openset.http.query_column import ColumnQuery
from openset.http.query_counts import CountsQuery
from openset.http.query_events import EventsQuery
from openset.http.query_explain import ExplainQuery
from openset.http.query_histogram import HistogramQuery
from openset.http.query_person import PersonQuery
from openset.http.resource import Answer, Resource
from openset.http.revent import TriggerBacktest, TriggerList, TriggerReset, TriggerResource
from openset.http.segments import SegmentList, SegmentResource
from openset.http.subscription import SubscriptionList, SubscriptionResource
from openset.http.table import ExistingColumn, NewColumn, TableList, TableResource
from openset.http.webhook import DeadLetterList, DeadLetterRetry, WebhookResource

_TABLE = r"(?P<table>[^/]+)"
_COLUMN = r"(?P<column>[^/]+)"
_NAME = r"(?P<name>[^/]+)"
_TRIGGER = r"(?P<trigger>[^/]+)"
_NEW_COLUMN = r"(?P<name>[^/]+):(?P<type>[^/]+)"

# A trailing slash is tolerated everywhere.
ROUTES: list[tuple[str, type[Resource]]] = [
    (r"/ping/?", Ping),
    (r"/health/?", HealthResource),
    (r"/v1/cluster/init/?", ClusterInit),
    (r"/v1/cluster/?", ClusterResource),
    (r"/v1/cluster/join/?", ClusterJoin),
    (r"/v1/cluster/leave/?", ClusterLeave),
    (r"/v1/cluster/is_member/?", IsMember),
    (r"/v1/internode/is_cluster_member/?", IsClusterMember),
    (r"/v1/internode/is_member/?", InternodeIsMember),
    (r"/v1/internode/join_to_cluster/?", JoinToCluster),
    (r"/v1/internode/add_node/?", AddNode),
    (r"/v1/internode/map_change/?", MapChange),
    (r"/v1/internode/coordinator/?", CoordinatorRequest),
    (r"/v1/internode/query/?", InternodeQuery),
    (r"/v1/internode/revent/?", InternodeRevent),
    (r"/v1/internode/sentinel/?", SentinelTold),
    (r"/v1/internode/transfers/?", RunningTransfers),
    (r"/v1/internode/load/?", PartitionLoads),
    (r"/v1/internode/log/?", LogMessages),
    (r"/v1/internode/write/?", Writes),
    (r"/v1/internode/stamps/?", Stamps),
    (r"/v1/internode/compact/?", MemberCompaction),
    (r"/v1/internode/transfer_begin/?", TransferBegin),
    (r"/v1/internode/transfer_end/?", TransferEnd),
    (r"/v1/internode/transfer/?", TransferResource),
    (r"/v1/table/?", TableList),
    (rf"/v1/table/{_TABLE}/?", TableResource),
    (rf"/v1/table/{_TABLE}/column/{_NEW_COLUMN}/?", NewColumn),
    (rf"/v1/table/{_TABLE}/column/{_NAME}/?", ExistingColumn),
    (rf"/v1/table/{_TABLE}/person/?", PersonResource),
    (rf"/v1/table/{_TABLE}/compact/?", Compaction),
    (rf"/v1/table/{_TABLE}/segments/?", SegmentList),
    (rf"/v1/table/{_TABLE}/segments/{_NAME}/?", SegmentResource),
    (rf"/v1/table/{_TABLE}/revents/?", TriggerList),
    (rf"/v1/table/{_TABLE}/(?:revent|trigger)/{_NAME}/?", TriggerResource),
    (rf"/v1/table/{_TABLE}/(?:revent|trigger)/{_NAME}/reset/?", TriggerReset),
    (rf"/v1/table/{_TABLE}/(?:revent|trigger)/{_NAME}/backtest/?", TriggerBacktest),
    (rf"/v1/subscription/{_TABLE}/{_TRIGGER}/?", SubscriptionList),
    (rf"/v1/subscription/{_TABLE}/{_TRIGGER}/{_NAME}/?", SubscriptionResource),
    (rf"/v1/subscription/{_TABLE}/{_TRIGGER}/{_NAME}/webhook/?", WebhookResource),
    (rf"/v1/subscription/{_TABLE}/{_TRIGGER}/{_NAME}/dead/?", DeadLetterList),
    (rf"/v1/subscription/{_TABLE}/{_TRIGGER}/{_NAME}/dead/retry/?", DeadLetterRetry),
    (rf"/v1/insert/{_TABLE}/?", Insert),
    (rf"/v1/query/{_TABLE}/events?/?", EventsQuery),
    (rf"/v1/query/{_TABLE}/column/{_COLUMN}/?", ColumnQuery),
    (rf"/v1/query/{_TABLE}/batch/?", BatchQuery),
    (rf"/v1/query/{_TABLE}/histogram/{_NAME}/?", HistogramQuery),
    (rf"/v1/query/{_TABLE}/(?:counts|segment)/?", CountsQuery),
    (rf"/v1/query/{_TABLE}/person/?", PersonQuery),
    (rf"/v1/query/{_TABLE}/explain/?", ExplainQuery),
]


class NotFound(Resource):
    """Every address without a resource, whatever the method."""

    async def _nothing(self) -> None:
        await self.respond(self._refuse())

    async def _refuse(self) -> Answer:
        raise RouteError(f"there is nothing at {self.request.path}")

    get = post = put = delete = head = patch = options = _nothing


def make_app(node: Node) -> Application:
    """The application over a node."""
    arguments: dict[str, Any] = {"node": node}
    return Application(
        [(pattern, handler, arguments) for pattern, handler in ROUTES],
        default_handler_class=NotFound,
        default_handler_args=arguments,
        log_function=log_request,
    )
