import pytest
from hypothesis import given
from hypothesis import strategies as st

from meetingctl.core.errors import InvalidInput
from meetingctl.core.target import (
    AddressTarget,
    AllTarget,
    DeviceTarget,
    GroupTarget,
    StdinTarget,
    TagTarget,
    Target,
    parse_target,
)

_labels = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,30}", fullmatch=True)
_hosts = st.one_of(_labels.filter(lambda text: not text.startswith("-")), st.ip_addresses().map(str))
_users = st.from_regex(r"[A-Za-z_][A-Za-z0-9._-]{0,31}", fullmatch=True)
_targets: st.SearchStrategy[Target] = st.one_of(
    _labels.map(DeviceTarget),
    st.builds(AddressTarget, _users, _hosts, st.integers(1, 65535)),
    _labels.map(TagTarget),
    _labels.map(GroupTarget),
    st.just(AllTarget()),
    st.just(StdinTarget()),
)


@given(_targets)
def test_a_target_reads_back(target: Target) -> None:
    if isinstance(target, DeviceTarget) and target.key.lower() in ("register", "checkin"):
        return
    assert parse_target(str(target)) == target


@pytest.mark.parametrize(
    "text", ["", "tag:", "@", "a b", "pi@", "pi@h:0", "pi@h:70000", "../x", "-x", "tag:a/b", "pi@@h"]
)
def test_the_rest_is_refused_with_the_grammar(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_target(text)
    assert caught.value.hint
