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
