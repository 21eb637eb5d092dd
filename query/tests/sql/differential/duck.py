"""DuckDB, asked by the differential test. One line in, lines out.

In:  `load TAB columns`, then rows of values between tabs, then an empty line; or `ask TAB statement`.
Out: for `ask`, one line per row: a letter for each value's type, and the value; then an empty line. Or `!` and the error.
"""

import datetime
import sys

import duckdb

database = duckdb.connect()
database.execute("SET TimeZone = 'UTC'")


def cell(value):
    if value is None:
        return "n"
    if isinstance(value, bool):
        return f"b{int(value)}"
    if isinstance(value, int):
        return f"i{value}"
    if isinstance(value, float):
        return f"f{value!r}"
    if isinstance(value, (str, datetime.date)):
        return f"s{value}"
    raise TypeError(f"{type(value)}: {value!r}")


def load(columns):
    rows = []
    for line in sys.stdin:
        line = line.rstrip("\n")
        if not line:
            break
        rows.append([value or None for value in line.split("\t")])
    names = [name for name in columns.split(" ") if name not in ("logger", "time")]
    channels = ", ".join(f"{name} DOUBLE" for name in names)
    database.execute(f"CREATE TABLE readings (logger UBIGINT, time TIMESTAMPTZ, {channels})")
    places = ", ".join("?::DOUBLE" for _ in names)
    database.executemany(f"INSERT INTO readings VALUES (?::UBIGINT, make_timestamptz(?::BIGINT * 1000), {places})", rows)


def ask(statement):
    try:
        for row in database.execute(statement).fetchall():
            print("\t".join(cell(value) for value in row))
        print()
    except Exception as error:
        print("!" + str(error).replace("\n", " "))
    sys.stdout.flush()


for line in sys.stdin:
    command, _, rest = line.rstrip("\n").partition("\t")
    {"load": load, "ask": ask}[command](rest)
