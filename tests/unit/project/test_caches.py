"""The shared cache: JSON only, and of many who add the same entry at once one does."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path

import pytest

from keyvault.project.cache_settings import cache_settings
from keyvault.project.caches import FileCache, JSONSerializer

VALUES = [True, 7, "text", [1.5, 2.5], {"a": None}, None]


@pytest.fixture
def cache(tmp_path: Path) -> FileCache:
    return FileCache(str(tmp_path / "cache"), {})


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_what_goes_in_comes_out(cache: FileCache, value: object) -> None:
    cache.set("name", value)
    assert cache.get("name", "nothing") == value
    written = JSONSerializer().dumps(value)
    assert JSONSerializer().loads(str(written).encode() if isinstance(written, int) else written) == value


def test_an_entry_ends(cache: FileCache, tmp_path: Path) -> None:
    cache.set("name", 1, timeout=-1)
    assert cache.get("name") is None
    assert cache.add("name", 2, timeout=None)
    assert not cache.add("name", 3)
    assert cache.get("name") == 2
    assert cache.touch("name", -1)
    assert not cache.touch("name")
    assert not cache.touch("other")
    assert list((tmp_path / "cache").iterdir()) == []


def test_nothing_is_unpickled(cache: FileCache) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (pytest.fail, ("It was unpickled.",))

    planted = pickle.dumps(Bomb())
    place = Path(cache._key_to_file("name"))
    cache.set("name", 1)
    place.write_bytes(planted)
    assert cache.get("name") is None  # as if it had expired
    place.write_bytes(b"null\n" + planted)
    with pytest.raises(ValueError, match=r"decode|Expecting"):
        cache.get("name")
    with pytest.raises(ValueError, match=r"decode|Expecting"):
        JSONSerializer().loads(planted)


def test_one_of_many_adds_it(cache: FileCache) -> None:
    together, added = threading.Barrier(8), []

    def add(number: int) -> None:
        together.wait()
        added.append(cache.add("name", number))

    for _ in range(20):
        cache.clear()
        added.clear()
        threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(added) == [False] * 7 + [True]


def test_the_address_says_where_it_is(tmp_path: Path) -> None:
    assert cache_settings("", tmp_path)["LOCATION"] == str(tmp_path / "cache")
    for url, known in (("redis://h/1", "redis://h/1"), ("valkeys://u:p@h/1", "rediss://u:p@h/1")):
        found = cache_settings(url, tmp_path)
        assert (found["LOCATION"], found["OPTIONS"]["serializer"]) == (
            known,
            "keyvault.project.caches.JSONSerializer",
        )
    with pytest.raises(ValueError, match="must be empty") as refused:
        cache_settings("memcache://user:a-password@h", tmp_path)
    assert "a-password" not in str(refused.value)
