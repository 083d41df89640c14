"""The event service (tev, wsnt): properties and pull points."""

from __future__ import annotations

from meetingctl.device.onvif.call import POINT_PATH, Call, Op, Table
from meetingctl.device.onvif.facts import Facts
from meetingctl.device.onvif.fault import Fault
from meetingctl.device.onvif.pullpoint import (
    DIALECTS,
    ITEM_FILTER_DIALECT,
    LONGEST_PULL_S,
    MOTION_TOPIC,
    RELAY_TOPIC,
    Message,
    Pull,
    PullPoint,
    duration_s,
    read_end,
    read_filter,
    utc,
)
from meetingctl.device.onvif.soap import NAMESPACES, Node, find, number, text

_MOST_AT_ONCE = 100
_TOPICS_LOCATION = "http://www.onvif.org/onvif/ver10/topics/topicns.xml"
_SCHEMA_LOCATION = "http://www.onvif.org/onvif/ver10/schema/onvif.xsd"


def topics_of(facts: Facts) -> frozenset[str]:
    """Return the topics that can really occur."""
    pairs = ((RELAY_TOPIC, facts.has_relay), (MOTION_TOPIC, facts.has_motion))
    return frozenset(topic for topic, is_there in pairs if is_there)


def get_event_properties(call: Call) -> Node:
    topics = topics_of(call.facts)
    return (
        "tev:GetEventPropertiesResponse",
        ("tev:TopicNamespaceLocation", _TOPICS_LOCATION),
        ("wsnt:FixedTopicSet", True),
        (
            "wstop:TopicSet",
            _relay_topic() if RELAY_TOPIC in topics else None,
            _motion_topic() if MOTION_TOPIC in topics else None,
        ),
        *(("wsnt:TopicExpressionDialect", dialect) for dialect in DIALECTS),
        ("tev:MessageContentFilterDialect", ITEM_FILTER_DIALECT),
        ("tev:MessageContentSchemaLocation", _SCHEMA_LOCATION),
    )


def create_pull_point_subscription(call: Call) -> Node:
    topics, accepts = read_filter(find(call.body, "tev:Filter"), topics_of(call.facts), now_s=call.now_s)
    ends_s = read_end(text(call.body, "tev:InitialTerminationTime", ""), now_s=call.now_s)
    point = call.points.create(topics, ends_s, now_s=call.now_s, accepts=accepts)
    return (
        "tev:CreatePullPointSubscriptionResponse",
        ("tev:SubscriptionReference", ("wsa:Address", call.url(POINT_PATH + point.token))),
        ("wsnt:CurrentTime", utc(call.now_s)),
        ("wsnt:TerminationTime", utc(point.ends_s)),
    )


def pull_messages(call: Call) -> Pull:
    point = _point(call)
    timeout_s = duration_s(text(call.body, "tev:Timeout"))
    limit = int(number(call.body, "tev:MessageLimit"))
    if timeout_s > LONGEST_PULL_S:
        detail = (
            "tev:PullMessagesFaultResponse",
            ("tev:MaxTimeout", f"PT{LONGEST_PULL_S:.0f}S"),
            ("tev:MaxMessageLimit", _MOST_AT_ONCE),
        )
        raise Fault("Sender", ("ter:InvalidArgVal",), "the timeout is too long", detail=detail)
    if point.wake is not None:
        raise Fault("Receiver", ("ter:Action",), "another pull of this subscription waits")
    point.pulled_s = call.now_s
    point.ends_s = max(point.ends_s, call.now_s + max(point.life_s, timeout_s))
    return Pull(point, timeout_s, max(1, min(limit, _MOST_AT_ONCE)))


def pulled(point: PullPoint, messages: list[Message], now_s: float) -> Node:
    """Return the answer of a pull that is over; the subscription lives on from now."""
    point.ends_s = max(point.ends_s, now_s + point.life_s)
    point.pulled_s = now_s
    return (
        "tev:PullMessagesResponse",
        ("tev:CurrentTime", utc(now_s)),
        ("tev:TerminationTime", utc(point.ends_s)),
        *(message.node() for message in messages),
    )


def renew(call: Call) -> Node:
    point = _point(call)
    written = text(call.body, "wsnt:TerminationTime", "")
    point.ends_s = read_end(written, now_s=call.now_s, fault="UnacceptableTerminationTimeFault")
    point.life_s = point.ends_s - call.now_s
    return (
        "wsnt:RenewResponse",
        ("wsnt:TerminationTime", utc(point.ends_s)),
        ("wsnt:CurrentTime", utc(call.now_s)),
    )


def unsubscribe(call: Call) -> Node:
    call.points.remove(_point(call))
    return ("wsnt:UnsubscribeResponse",)


def set_synchronization_point(call: Call) -> Node:
    call.points.synchronize(_point(call), now_s=call.now_s)
    return ("tev:SetSynchronizationPointResponse",)


def _point(call: Call) -> PullPoint:
    return call.points.find(call.path.removeprefix(POINT_PATH), now_s=call.now_s)


def _relay_topic() -> Node:
    return ("tns1:Device", ("Trigger", ("Relay", {"wstop:topic": True}, _described("RelayToken", "LogicalState"))))


def _motion_topic() -> Node:
    return ("tns1:VideoSource", ("MotionAlarm", {"wstop:topic": True}, _described("Source", "State", "xs:boolean")))


def _described(source: str, data: str, kind: str = "tt:RelayLogicalState") -> Node:
    return (
        "tt:MessageDescription",
        {"IsProperty": True},
        ("tt:Source", ("tt:SimpleItemDescription", {"Name": source, "Type": "tt:ReferenceToken"})),
        ("tt:Data", ("tt:SimpleItemDescription", {"Name": data, "Type": kind})),
    )


TABLE: Table = {
    (NAMESPACES["tev"], "GetEventProperties"): Op(get_event_properties, "RM"),
    (NAMESPACES["tev"], "CreatePullPointSubscription"): Op(create_pull_point_subscription, "RM"),
    (NAMESPACES["tev"], "PullMessages"): Op(pull_messages, "RM"),
    (NAMESPACES["tev"], "SetSynchronizationPoint"): Op(set_synchronization_point, "RM"),
    (NAMESPACES["wsnt"], "Renew"): Op(renew, "RM"),
    (NAMESPACES["wsnt"], "Unsubscribe"): Op(unsubscribe, "RM"),
}
