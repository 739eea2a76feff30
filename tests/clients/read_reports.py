"""Reads reports with the readers that their users have; prints what they found as JSON.

report.hlog and report.hgrm: HdrHistogram's reader; report.xml: an XML parser; report.csv: the csv module;
report.parquet: DuckDB and pandas.
"""

import csv
import io
import json
import math
import pathlib
import sys
import xml.etree.ElementTree

import duckdb
import pandas
import pyarrow.parquet
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

HOUR_NS = 3_600_000_000_000


def percentile_rows(text):
    """The rows of a percentile distribution: percentile, value, and number of values up to it."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    rows = [line.split() for line in lines[1:]]
    return [[float(percentile), value, int(count)] for value, percentile, count, *_ in rows]


def expected_rows(histogram, percentiles):
    """What these rows should be: HdrHistogram's own are at slightly other percentiles in Python."""
    seen, rows = 0, []
    total = histogram.get_total_count()
    wanted = iter(percentiles)
    percentile = next(wanted, None)
    for bucket in histogram.get_recorded_iterator():
        seen += bucket.count_added_in_this_iter_step
        while percentile is not None and seen / total >= percentile:
            rows.append([percentile, f"{bucket.value_iterated_to / 1e6:.3f}", seen])
            percentile = next(wanted, None)
    return rows


def read_log(path):
    """The sum of all intervals by tag, and the intervals of all requests."""
    sums, starts = {}, []
    reader = HistogramLogReader(str(path), HdrHistogram(1, HOUR_NS, 3))
    while True:
        interval = reader.get_next_interval_histogram()
        if interval is None:
            break
        tag = interval.get_tag() or ""
        sums.setdefault(tag, HdrHistogram(1, HOUR_NS, 3)).add(interval)
        if tag == "":
            starts.append(interval.get_start_time_stamp())
    reader.close()
    return sums, starts, reader.get_start_time_sec()


def figures(histogram):
    at = histogram.get_value_at_percentile
    return {
        "count": histogram.get_total_count(),
        "p50": at(50),
        "p90": at(90),
        "p99": at(99),
        "p999": at(99.9),
        "max": histogram.get_max_value(),
    }


def by_duckdb(path):
    """What DuckDB finds in the rows of single requests."""
    def value(what):
        return duckdb.sql(f"select {what} from '{path}'").fetchall()[0][0]

    def counts(column, where):
        found = duckdb.sql(
            f"select {column}, count(*) from '{path}' where {where} group by all order by all"
        )
        return {str(name): count for name, count in found.fetchall()}

    times = {
        name: {
            **{f"p{p}": value(f"quantile_disc({name}, {p / 100})") for p in (50, 90, 99)},
            "max": value(f"max({name})"),
        }
        for name in ("latency", "service_time", "lag", "wait")
    }
    return {
        "rows": value("count(*)"),
        "ok": value("count(*) filter (outcome = 'ok')"),
        "sent": value("count(*) filter (sent)"),
        "bytes_in": value("sum(bytes_in)::bigint"),
        "status": counts("status", "status is not null"),
        "errors": counts("outcome", "outcome <> 'ok'"),
        "targets": counts("target", "true"),
        **times,
    }


def by_pandas(path):
    """What pandas finds in the same rows."""
    rows = pandas.read_parquet(path)

    def counts(values):
        return {str(name): int(count) for name, count in values.value_counts().items()}

    def time(name):
        values = rows[name].dropna().astype(int).sort_values().to_list()
        at = {f"p{p}": values[math.ceil(len(values) * p / 100) - 1] for p in (50, 90, 99)}
        return {**at, "max": values[-1]}

    return {
        "rows": len(rows),
        "ok": int((rows.outcome == "ok").sum()),
        "sent": int(rows.sent.sum()),
        "bytes_in": int(rows.bytes_in.sum()),
        "status": counts(rows.status.dropna().astype(int)),
        "errors": counts(rows.outcome[rows.outcome != "ok"]),
        "targets": counts(rows.target),
        **{name: time(name) for name in ("latency", "service_time", "lag", "wait")},
    }


def main(folder):
    sums, starts, started_at = read_log(folder / "report.hlog")
    written = (folder / "report.hgrm").read_text()
    rows_written = percentile_rows(written)
    own = io.BytesIO()
    sums[""].output_percentile_distribution(own, 1e6)
    suite = xml.etree.ElementTree.parse(folder / "report.xml").getroot().find("testsuite")
    with open(folder / "report.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, strict=True))
    print(json.dumps({
        "tags": {tag: figures(histogram) for tag, histogram in sums.items()},
        "started_at": started_at,
        "starts": starts,
        "written": rows_written,
        "expected": expected_rows(sums[""], [row[0] for row in rows_written]),
        "heads": [
            [line for line in text.splitlines() if "1/(1-Percentile)" in line]
            for text in (written, own.getvalue().decode())
        ],
        "mean_ms": sums[""].get_mean_value() / 1e6,
        "deviation_ms": sums[""].get_stddev() / 1e6,
        "buckets": [sums[""].bucket_count, sums[""].sub_bucket_count],
        "footer": [line for line in written.splitlines() if line.startswith("#[")],
        "cases": [
            [case.get("name"), [child.tag for child in case]] for case in suite.iter("testcase")
        ],
        "suite": suite.attrib,
        "rows": rows,
        "parquet": {
            "duckdb": by_duckdb(folder / "report.parquet"),
            "pandas": by_pandas(folder / "report.parquet"),
            "metadata": {
                key.decode(): value.decode()
                for key, value in pyarrow.parquet.read_metadata(
                    folder / "report.parquet"
                ).metadata.items()
            },
        },
    }))


main(pathlib.Path(sys.argv[1]))
