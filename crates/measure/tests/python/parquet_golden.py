"""Writes the Parquet files of ../golden/parquet with pyarrow, an independent writer, and what is in them.

    python3 parquet_golden.py        needs pyarrow
"""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

FOLDER = Path(__file__).parent.parent / "golden" / "parquet"
ROWS = 48


def row(i):
    return {
        "question": f"What is {i} times {i}? \u00e4\u4e2d\U0001f600",
        "word": ["red", "green", "blue", None][i % 4],
        "choices": None if i % 11 == 5 else {"text": [f"option {i + k}" for k in range(i % 5)], "label": list("ABCDE"[: i % 5])},
        "label": i % 4,
        "big": -(3**i) if i < 39 else i,
        "small": None if i % 7 == 0 else i - 20,
        "unsigned": 4294967295 - i,
        "flag": None if i % 9 == 8 else i % 3 == 0,
        "real": i / 8 - 1,
        "single": i / 4,
        "nested": [[j * 10 + k for k in range(j)] or None for j in range(i % 4)] if i % 6 else None,
        "pairs": [{"a": i, "b": None if i % 2 else str(i)}, {"a": None, "b": "x"}][: i % 3],
        "map": [("k" + str(k), k) for k in range(i % 3)],
        "path": f"/same/beginning/of/all/{i:05}",
    }


SCHEMA = pa.schema(
    [
        pa.field("question", pa.string(), nullable=False),
        ("word", pa.string()),
        ("choices", pa.struct([("text", pa.list_(pa.string())), ("label", pa.list_(pa.string()))])),
        ("label", pa.int64()),
        ("big", pa.int64()),
        ("small", pa.int32()),
        ("unsigned", pa.uint32()),
        ("flag", pa.bool_()),
        ("real", pa.float64()),
        ("single", pa.float32()),
        ("nested", pa.list_(pa.list_(pa.int64()))),
        ("pairs", pa.large_list(pa.struct([("a", pa.int64()), ("b", pa.large_string())]))),
        ("map", pa.map_(pa.string(), pa.int32())),
        ("path", pa.string()),
    ]
)
DELTA = {"big": "DELTA_BINARY_PACKED", "small": "DELTA_BINARY_PACKED", "label": "DELTA_BINARY_PACKED"}
DELTA |= {"question": "DELTA_LENGTH_BYTE_ARRAY", "path": "DELTA_BYTE_ARRAY", "word": "DELTA_BYTE_ARRAY"}
FILES = {
    "snappy": {"compression": "snappy"},
    "gzip_v2": {"compression": "gzip", "data_page_version": "2.0", "row_group_size": 20},
    "zstd_checksums": {"compression": "zstd", "use_dictionary": False, "write_page_checksum": True},
    "pages": {"compression": "none", "data_page_size": 64, "write_batch_size": 5, "write_statistics": False},
    "delta_v2": {
        "compression": "snappy",
        "data_page_version": "2.0",
        "use_dictionary": False,
        "column_encoding": DELTA,
        "data_page_size": 512,
        "write_batch_size": 16,
    },
}


def main():
    FOLDER.mkdir(exist_ok=True)
    table = pa.Table.from_pylist([row(i) for i in range(ROWS)], schema=SCHEMA)
    for name, options in FILES.items():
        pq.write_table(table, FOLDER / f"{name}.parquet", store_schema=False, version="2.6", **options)
    pq.write_table(table.select(["word"]), FOLDER / "lz4.parquet", store_schema=False, compression="lz4")
    questions = [{"goal": f"goal {i}", "sol1": "one", "sol2": f"two {i}", "label": i % 2} for i in range(3)]
    pq.write_table(pa.Table.from_pylist(questions), FOLDER / "piqa.parquet")
    rows = table.to_pylist()
    for i, found in enumerate(rows):
        # Maps appear as lists of their entries.
        found["map"] = [{"key": key, "value": value} for key, value in found["map"]]
        assert {**found, "map": None} == {**row(i), "map": None}
    (FOLDER / "rows.json").write_text(json.dumps(rows, indent=0) + "\n")


if __name__ == "__main__":
    main()
