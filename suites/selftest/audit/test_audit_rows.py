"""Reading rows: every row once, whatever it is packed in; a file that breaks says so and how far it was read."""

import bz2
import gzip
import json
import lzma

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.audit import rows
from harness.errors import AuditError

pytestmark = pytest.mark.selftest

PACKED = {"gz": gzip.compress, "zst": zstandard.ZstdCompressor().compress, "bz2": bz2.compress, "xz": lzma.compress}
ANY = settings(derandomize=True, deadline=None, max_examples=60)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts, lambda inner: st.lists(inner, max_size=3), max_leaves=5
)
dicts = st.dictionaries(texts, values, max_size=4)


def written(folder, data, name="data.jsonl"):
    path = folder / name
    path.write_bytes(data)
    return path


def whole(path, **options):
    """(line, offset, raw) of every row."""
    found = []
    for chunk in rows.read([path], **options):
        assert len(chunk.raw) == len(chunk.line) == len(chunk.offset) == len(chunk.size) == len(chunk.digests)
        assert chunk.size.tolist() == [len(raw) for raw in chunk.raw]
        assert chunk.digests.tobytes() == b"".join(xxhash.xxh3_128_digest(raw) for raw in chunk.raw)
        found += zip(chunk.line.tolist(), chunk.offset.tolist(), chunk.raw, strict=True)
    return found


def raw_of(path, **options):
    return [raw for _, _, raw in whole(path, **options)]


def where_they_lie(data, found):
    return all(data[offset : offset + len(raw)] == raw for _, offset, raw in found)


@ANY
@given(
    st.lists(dicts, min_size=1, max_size=12),
    st.sampled_from(["", *PACKED]),
    st.integers(1, 200),
    st.sampled_from([b"\n", b"\r\n", b" \n\n\t"]),
)
def test_any_rows_come_back_from_lines(tmp_path_factory, given_rows, packed, chunk_bytes, end):
    lines = [orjson.dumps(row) for row in given_rows]
    data = end.join(lines)
    path = written(tmp_path_factory.mktemp("rows"), PACKED[packed](data) if packed else data)
    found = whole(path, chunk_bytes=chunk_bytes)
    assert [raw for _, _, raw in found] == lines
    assert where_they_lie(data, found)
    assert [line for line, _, _ in found] == [1 + i * end.count(b"\n") for i in range(len(lines))]


@ANY
@given(st.lists(dicts, min_size=1, max_size=12), st.sampled_from([None, 1]), st.integers(1, 200), st.booleans(), st.booleans())
def test_any_rows_come_back_from_an_array(tmp_path_factory, given_rows, indent, chunk_bytes, wrapped, packed):
    document = {"version": "1 [a]", "n": 2, "data": given_rows, "note": "x"} if wrapped else given_rows
    data = json.dumps(document, indent=indent, ensure_ascii=False).encode()
    path = written(tmp_path_factory.mktemp("rows"), gzip.compress(data) if packed else data, "data.json")
    found = whole(path, chunk_bytes=chunk_bytes)
    assert [json.loads(raw) for _, _, raw in found] == given_rows
    assert where_they_lie(data, found)
    assert [line for line, _, _ in found] == list(range(1, len(given_rows) + 1))


@ANY
@given(st.lists(dicts.filter(bool), min_size=1, max_size=6))
def test_pieces_of_any_size_make_the_same_array(tmp_path_factory, given_rows):
    path = written(tmp_path_factory.mktemp("rows"), json.dumps(given_rows).encode(), "data.json")
    expected = whole(path)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(rows, "_PIECE", 7)
        assert whole(path, chunk_bytes=20) == expected


@ANY
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=12), st.sampled_from(",\t;"), st.integers(1, 200))
def test_any_table_comes_back(tmp_path_factory, given_rows, delimiter, chunk_bytes):
    import csv
    import io

    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerow(["prompt", "completion"])
    writer.writerows(given_rows)
    data = out.getvalue().encode()
    path = written(tmp_path_factory.mktemp("rows"), data, "data.csv")
    found = whole(path, chunk_bytes=chunk_bytes)
    assert [tuple(orjson.loads(raw).values()) for _, _, raw in found] == given_rows
    for line, offset, _ in found:
        assert data[:offset].count(b"\n") == line - 1  # the physical line on which the row begins


def test_parquet_gives_the_same_rows(tmp_path):
    given_rows = [{"id": i, "messages": [{"role": "user", "content": f"é {i}"}]} for i in range(5000)]
    pq.write_table(pa.Table.from_pylist(given_rows), tmp_path / "data.parquet", row_group_size=700)
    found = whole(tmp_path / "data.parquet")
    assert [orjson.loads(raw) for _, _, raw in found] == given_rows
    assert [line for line, _, _ in found] == list(range(1, 5001)) and {offset for _, offset, _ in found} == {-1}


def test_parquet_text_that_is_no_text_stays_a_row(tmp_path):
    broken = pa.Array.from_buffers(pa.string(), 2, [None, pa.py_buffer(np.array([0, 1, 2], np.int32)), pa.py_buffer(b"a\xff")])
    pq.write_table(pa.table({"text": broken}), tmp_path / "data.parquet")
    good, bad = raw_of(tmp_path / "data.parquet")
    assert orjson.loads(good) == {"text": "a"} and orjson.loads(bad) == ["row 2 holds text that is no UTF-8"]


def test_values_that_json_has_not_are_written_as_text(tmp_path):
    import datetime
    import decimal

    row = {"when": datetime.date(2026, 11, 21), "price": decimal.Decimal("1.50"), "blob": b"\xffa"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "data.parquet")
    assert json.loads(raw_of(tmp_path / "data.parquet")[0]) == {"when": "2026-11-21", "price": "1.50", "blob": "\udcffa"}


def test_the_bytes_decide_and_not_the_name(tmp_path):
    data = b'{"a":1}\n{"a":2}'
    for name, pack in PACKED.items():
        assert raw_of(written(tmp_path, pack(data), f"{name}.jsonl")) == [b'{"a":1}', b'{"a":2}']
    assert raw_of(written(tmp_path, data, "plain.jsonl.gz")) == [b'{"a":1}', b'{"a":2}']
    assert raw_of(written(tmp_path, data, "lines.json")) == [b'{"a":1}', b'{"a":2}']
    assert raw_of(written(tmp_path, b"[1]\n[2]", "arrays.jsonl")) == [b"[1]", b"[2]"]


def test_members_and_padding(tmp_path):
    for pack in PACKED.values():
        assert raw_of(written(tmp_path, pack(b"1\n2") + pack(b"3\n4"))) == [b"1", b"23", b"4"]
    assert raw_of(written(tmp_path, gzip.compress(b"1\n") + bytes(9000))) == [b"1"]


@pytest.mark.parametrize("name", PACKED)
def test_what_is_cut_off_is_an_error_after_the_rows_before(tmp_path, name):
    lines = [orjson.dumps({"i": i, "text": xxhash.xxh3_128_hexdigest(b"%d" % i)}) for i in range(20000)]
    packed = PACKED[name](b"\n".join(lines))
    path = written(tmp_path, packed[: len(packed) * 3 // 4])
    found = []
    with pytest.raises(AuditError, match=r"data.jsonl: .*(too early|damaged).*rows were read before") as error:
        found.extend(raw for chunk in rows.read([path], chunk_bytes=1000) for raw in chunk.raw)
    assert found == lines[: len(found)] and f"; {len(found)} rows" in str(error.value)
    assert found or name == "bz2"  # which gives nothing before a whole block of 900 kB


def test_damage_in_the_middle(tmp_path):
    packed = bytearray(gzip.compress(orjson.dumps(list(range(9000)))))
    packed[len(packed) // 2] ^= 255
    with pytest.raises(AuditError, match=r"damaged|too early"):
        whole(written(tmp_path, bytes(packed)))


@pytest.mark.parametrize(
    ("data", "name", "expected"),
    [
        (b"", "a.jsonl", "no rows"),
        (b" \n\r\n", "a.jsonl", "no rows"),
        (b"[]", "a.json", "no rows"),
        (b'{"data": []}', "a.json", "no rows"),
        (b"a,b\n", "a.csv", "no rows"),
        (b"", "a.csv", "no rows"),
        (b"a,a\n1,2\n", "a.csv", "more than once"),
        (b'a,"b\n', "a.csv", "header cannot be read"),
        (b"[1, 2", "a.json", "not closed.*; 1 rows"),
        (b'["a]', "a.json", "not closed.*; 0 rows"),
        (b"[1] [2]", "a.json", "more after the array of rows, at byte 3"),
        (b'{"data": [1], "test": [2]}', "a.json", "more after the array"),
        (b'{\n "a": 1\n}', "a.json", "one JSON object"),
        (b"PK\x03\x04...", "a.jsonl", "zip archive"),
        (b"PAR1 and no more", "a.parquet", "Parquet that cannot be read"),
        (gzip.compress(b"PAR1", mtime=0), "a.parquet.gz", "packed Parquet"),
        (b"\xff\xfe\0\0", "a.jsonl", "UTF-32"),
        (b"\xff\xfe1\0\n\0\x32", "a.jsonl", "UTF-16 that cannot be decoded .*; 1 rows"),
    ],
)  # fmt: skip
def test_a_file_that_is_none_of_it_says_what_it_is(tmp_path, data, name, expected):
    with pytest.raises(AuditError, match=expected):
        whole(written(tmp_path, data, name))


def test_no_file_and_a_folder(tmp_path):
    with pytest.raises(AuditError, match=r"missing.jsonl: No such file"):
        whole(tmp_path / "missing.jsonl")
    with pytest.raises(AuditError, match="is a folder"):
        whole(tmp_path)


def test_marks_of_byte_order(tmp_path):
    text = '{"a":"é\U0001f600"}\r\n{"b":2}'
    lines = [line.encode() for line in text.split("\r\n")]
    assert whole(written(tmp_path, b"\xef\xbb\xbf" + text.encode()))[0] == (1, 3, lines[0])
    for coding in ("utf-16", "utf-16-be"):
        data = text.encode("utf-16") if coding == "utf-16" else b"\xfe\xff" + text.encode("utf-16-be")
        assert whole(written(tmp_path, data)) == [(1, -1, lines[0]), (2, -1, lines[1])]
    assert raw_of(written(tmp_path, b'\xef\xbb\xbf[{"a":1}]', "a.json")) == [b'{"a":1}']
    assert raw_of(written(tmp_path, b"\xef\xbb\xbfa,b\r\n1,2\r\n", "a.csv")) == [b'{"a":"1","b":"2"}']


def test_broken_bytes_stay_as_they_are(tmp_path):
    lines = [b'{"a":"\xff"}', b"\0\0", b"{", b'{"a":1}{"a":2}', b"\xed\xa0\x80", b"\x0b1\x0c"]
    assert raw_of(written(tmp_path, b"\n".join(lines))) == lines
    assert raw_of(written(tmp_path, b"[{,1,,]", "a.jsonl")) == [b"[{,1,,]"]


def test_broken_elements_stay_rows(tmp_path):
    found = whole(written(tmp_path, b'[{"a":1},, nonsense ,{"b":"]"},]', "a.json"))
    assert [raw for _, _, raw in found] == [b'{"a":1}', b"", b"nonsense", b'{"b":"]"}', b""]
    assert [line for line, _, _ in found] == [1, 2, 3, 4, 5]


def test_what_comes_after_an_array_is_read_to_the_end(tmp_path):
    assert raw_of(written(tmp_path, b"[1]" + b"\n" * (3 << 20), "a.json")) == [b"1"]
    with pytest.raises(AuditError, match=r"more after the array of rows, at byte 3; expected .*; 1 rows"):
        whole(written(tmp_path, b"[1]" + b"\n" * (3 << 20) + b"[2]", "a.json"))
    with pytest.raises(AuditError, match="too early"):  # the last bytes of gzip say whether all is there
        whole(written(tmp_path, gzip.compress(b"[1]")[:-3], "a.json.gz"))


def test_rows_that_do_not_fit_their_header(tmp_path):
    data = b'a,b\n1,2\n\n3\n4,5,6\n"x" y,1\n"two\nlines",7\n\xff,8\n"open,9\n'
    found = whole(written(tmp_path, data, "a.csv"))
    assert [(line, json.loads(raw)) for line, _, raw in found] == [
        (2, {"a": "1", "b": "2"}), (4, ["3"]), (5, ["4", "5", "6"]), (6, ['"x" y,1\n']), (7, {"a": "two\nlines", "b": "7"}),
        (9, {"a": "\udcff", "b": "8"}), (10, ['"open,9\n']),
    ]  # fmt: skip


def test_the_column_without_a_name_and_tabs(tmp_path):
    assert raw_of(written(tmp_path, b",a\n0,x\n", "a.csv")) == [b'{"":"0","a":"x"}']
    assert raw_of(written(tmp_path, b"a,b,c\td\n1,2,3\t4\n", "a.tsv")) == [b'{"a,b,c":"1,2,3","d":"4"}']


def test_a_field_longer_than_the_csv_module_takes(tmp_path):
    import csv

    before = csv.field_size_limit()
    (row,) = raw_of(written(tmp_path, b"text\n" + b"x" * 300_000, "a.csv"))
    assert len(row) > 300_000 and csv.field_size_limit() == before


def test_a_row_longer_than_a_chunk(tmp_path):
    big = orjson.dumps({"text": "x" * (5 << 20)})
    data = b"1\n" + big + b"\n2"
    assert raw_of(written(tmp_path, data), chunk_bytes=1000) == [b"1", big, b"2"]
    assert raw_of(written(tmp_path, b"[1," + big + b",2]", "a.json"), chunk_bytes=1000) == [b"1", big, b"2"]


def test_several_files_in_order(tmp_path):
    files = [written(tmp_path, b"1\n2", "b.jsonl"), written(tmp_path, b"3", "a.jsonl")]
    assert [(chunk.file, chunk.raw) for chunk in rows.read(files)] == [(0, [b"1", b"2"]), (1, [b"3"])]


def test_a_file_that_grows_while_it_is_read(tmp_path):
    path = written(tmp_path, b'{"a":1}\n' * (1 << 18))
    reading = rows.read([path], chunk_bytes=1 << 10)
    next(reading)
    path.write_bytes(b"")
    with pytest.raises(AuditError, match="changes while it is read"):
        list(reading)


def test_lines_lost_by_the_reader_are_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "_blocks", lambda pieces, size: (piece[: len(piece) // 2] for piece in pieces))
    with pytest.raises(AuditError, match=r"told apart.*counted"):
        whole(written(tmp_path, b"1\n2\n3\n4\n"))


def test_rows_of_parquet_lost_by_the_reader_are_noticed(tmp_path, monkeypatch):
    pq.write_table(pa.table({"text": ["a", "b"]}), tmp_path / "data.parquet")
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda file, batch_size: iter([pa.record_batch({"text": ["a"]})]))
    with pytest.raises(AuditError, match="Parquet of 2 rows by its footer, 1 in it; 1 rows were read before"):
        whole(tmp_path / "data.parquet")


def test_progress_is_told(tmp_path):
    said = []
    list(rows.read([written(tmp_path, b"1\n2\n")], progress=lambda *told: said.append(told)))
    assert said[-1] == ("reading data.jsonl", 4, 4)
