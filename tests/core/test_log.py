import io
import json
import logging

from meetingctl.core.log import JsonFormatter, TextFormatter, request_id


def _record(**facts: object) -> logging.LogRecord:
    record = logging.makeLogRecord({"msg": "tunnel up", "levelno": logging.INFO, "levelname": "INFO", "name": "x"})
    vars(record).update(facts)
    return record


def test_text_shows_the_facts() -> None:
    assert (
        TextFormatter().format(_record(device="cam-7", rtt_ms=41)).endswith("info    tunnel up device=cam-7 rtt_ms=41")
    )


def test_json_is_one_object_with_the_request() -> None:
    token = request_id.set("r-1")
    try:
        line = JsonFormatter().format(_record(device="cam-7"))
    finally:
        request_id.reset(token)
    entry = json.loads(line)
    assert entry["message"] == "tunnel up"
    assert (entry["device"], entry["request_id"], entry["level"]) == ("cam-7", "r-1", "info")


def test_a_traceback_stays_in_the_record() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.Logger("alone")
    logger.addHandler(handler)
    try:
        raise ValueError("boom")
    except ValueError:
        logger.exception("failed")
    assert "boom" in json.loads(stream.getvalue())["traceback"]


_HOSTILE = "a\r\n12:00:01 info  all is well\x1b[2J\x00\x7f\x85\x9b31m\u2028\u202e"


def test_a_peers_text_stays_in_its_line_without_commands_for_a_terminal() -> None:
    for record in (_record(peer=_HOSTILE), _record(**{"ke\ny": 1}), _record(msg=_HOSTILE), _record(error=[_HOSTILE])):
        line = TextFormatter().format(record)
        assert line.isprintable()
        assert len(line.splitlines()) == 1
    assert TextFormatter().format(_record(peer="ü\x1b[1m\t")).endswith(r"peer=ü\x1b[1m\t")


def test_a_traceback_keeps_its_lines_and_nothing_else() -> None:
    try:
        raise ValueError(_HOSTILE)
    except ValueError as error:
        text = TextFormatter().format(_record(exc_info=(ValueError, error, error.__traceback__)))
    assert "\nValueError: a" in text
    assert all(line.isprintable() for line in text.split("\n"))


def test_json_lines_have_no_raw_control_characters_and_read_back() -> None:
    line = JsonFormatter().format(_record(peer=_HOSTILE))
    assert line.isprintable()
    assert json.loads(line)["peer"] == _HOSTILE
