"""Operations on a store, with a file system of fsspec's kind that fails as it is told to."""

from datetime import datetime

import pytest

from kdbench.errors import UserError
from kdbench.folders import CacheFolder
from kdbench.remote import bucket
from kdbench.remote.bucket import Bucket, Found, StoreError
from kdbench.remote.place import mirror_of, url_of, with_urls


class Files:
    """Fails with each of `errors` in turn, before it does what it is asked for; gives each of `contents` in turn. Lists
    what it listed before, unless it is told to forget that."""

    def __init__(self, errors=(), contents=(b"whole",)):
        self.errors, self.contents, self.calls, self.known = list(errors), list(contents), 0, None
        self.there = {"bucket/run/a": {"size": 5, "ETag": "1", "LastModified": datetime(2001, 1, 1)}}

    def _fail(self):
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)

    def invalidate_cache(self):
        self.known = None

    def find(self, path, detail):
        self._fail()
        self.known = self.known or dict(self.there)
        return self.known

    def cat_file(self, path):
        self._fail()
        return self.contents.pop(0) if len(self.contents) > 1 else self.contents[0]

    def info(self, path):
        return self.there[path]

    def modified(self, path):
        return self.there[path]["LastModified"]


@pytest.fixture
def of(monkeypatch):
    monkeypatch.setattr(bucket, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(bucket, "LAST_DELAY", 0.002)

    def make(files):
        monkeypatch.setattr(bucket, "_connect", lambda url: (files, "bucket/run"))
        return Bucket("s3://bucket/run")
    return make


def test_what_fails_for_a_while_is_tried_again(of):
    assert of(Files([OSError("500"), TimeoutError(), RuntimeError("odd")])).read("a") == b"whole"


def test_what_fails_for_longer_is_an_error_that_may_pass(of, monkeypatch):
    monkeypatch.setattr(bucket, "FIRST_PATIENCE", 0.02)
    with pytest.raises(StoreError, match=r"s3://bucket/run: the store fails \(500\)") as failed:
        of(Files([OSError("500")] * 1000)).read("a")
    assert failed.value.passing


@pytest.mark.parametrize("error, expected", [
    (PermissionError("Forbidden"), "access denied (Forbidden)"), (ValueError("bad name"), "bad name"),
    (type("NoCredentialsError", (Exception,), {})("none"), "no credentials (none)"),
])
def test_what_the_store_refuses_is_asked_for_once(of, error, expected):
    files = Files([error])
    with pytest.raises(StoreError) as failed:
        of(files).list()
    assert expected in str(failed.value) and not failed.value.passing and files.calls == 1


def test_a_content_that_came_in_part_is_asked_for_again(of):
    assert of(Files(contents=(b"wh", b"", b"whole"))).read("a", 5) == b"whole"


def test_an_object_that_was_replaced_since_it_was_listed_is_read_as_it_is_now(of):
    assert of(Files()).read("a", 99) == b"whole"


def test_what_is_not_there_is_none(of):
    assert of(Files([FileNotFoundError()])).read("a") is None


def test_a_listing_is_never_an_old_one(of):
    files = Files()
    objects = of(files)
    assert objects.list() == {"a": Found(5, "1")}
    files.there["bucket/run/b"] = {"size": 0, "LastModified": "today"}
    files.there["bucket/running"] = {"size": 0}
    assert objects.list() == {"a": Found(5, "1"), "b": Found(0, "0 today")}


def test_dates_have_a_zone(of):
    assert of(Files()).modified("a").tzinfo is not None


# URLs.

@pytest.mark.parametrize("given, url", [
    ("s3://bucket/run", "s3://bucket/run"), ("s3://bucket/run/", "s3://bucket/run"), ("S3://bucket", "s3://bucket"),
    ("runs/quick", None), ("/s3:/run", None), ("", None), (None, None), ("a:b", None), ("imagefolder:photos", None),
])
def test_a_url_is_told_from_a_path(given, url):
    from pathlib import Path

    assert url_of(given) == url
    assert given is None or url_of(Path(given)) == url


def test_each_url_of_each_endpoint_has_a_mirror_of_its_own_and_text_names_the_url(tmp_path, monkeypatch):
    cache = CacheFolder(tmp_path)
    first = mirror_of("s3://bucket/run", cache)
    assert mirror_of("s3://bucket/run", cache) == first != mirror_of("s3://bucket/ran", cache)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://elsewhere")
    assert mirror_of("s3://bucket/run", cache) != first
    assert with_urls(f"{first.results}/records: gone") == "s3://bucket/run/records: gone"
    with pytest.raises(UserError, match="names no bucket"):
        mirror_of("s3://", cache)
