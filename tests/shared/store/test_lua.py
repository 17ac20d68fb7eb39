"""The arguments of scripts: JSON for values, bytes for payloads. The fake Redis and Valkey must read them alike."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from shared.store.lua import Script, load_script
from tests.support.texts import HARD_TEXT, TEXTS

pytestmark = pytest.mark.anyio

on_one_redis = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])


def script_of(redis: Redis, folder: Path, text: str) -> Script:
    (folder / "script.lua").write_text(text)
    return load_script(redis, str(folder / "module.py"), "script.lua")


@pytest.fixture
def number_of(redis: Redis, tmp_path: Path) -> Script:
    return script_of(redis, tmp_path, "return string.format('%.17g', cjson.decode(ARGV[1]).number)")


@pytest.fixture
def text_of(redis: Redis, tmp_path: Path) -> Script:
    return script_of(redis, tmp_path, "return cjson.decode(ARGV[1]).text")


@on_one_redis
@given(st.floats(0, 1e13))
@example(1_750_000_000.123457)
@example(0.1 + 0.2)
@example(1e-7)
async def test_json_number_keeps_its_full_precision(number_of: Script, number: float):
    assert float(await number_of([], {"number": number})) == number


@on_one_redis
@given(TEXTS)
@example("")
@example(HARD_TEXT)
async def test_json_text_arrives_unchanged(text_of: Script, text: str):
    assert (await text_of([], {"text": text})).decode() == text


async def test_payload_bytes_arrive_unchanged(redis: Redis, tmp_path: Path):
    payloads = (bytes(range(256)), b"", b"\xff\xfe", b"\x00")
    script = script_of(redis, tmp_path, "return {unpack(ARGV, 2)}")
    assert await script([], {}, payloads) == list(payloads)


async def test_empty_list_has_no_elements(redis: Redis, tmp_path: Path):
    script = script_of(
        redis, tmp_path, "local n = 0; for _ in ipairs(cjson.decode(ARGV[1]).list) do n = n + 1 end; return n"
    )
    assert [await script([], {"list": [0] * count}) for count in (0, 1, 3)] == [0, 1, 3]
