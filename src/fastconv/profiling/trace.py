"""The calls in the Trace Event Format, which Perfetto and Chromium's chrome://tracing open."""

from __future__ import annotations

from typing import Any

from .report import Report


def trace(report: Report) -> dict[str, Any]:
    """Complete ("X") events in microseconds; a process for each backend, a thread for each thread."""
    processes = {name: i for i, name in enumerate(dict.fromkeys(call[4] for call in report.calls), 1)}
    events: list[dict[str, Any]] = []
    for name, pid in processes.items():
        events.append(_name("process_name", pid, 0, f"{report.title}, {name}"))
        tids = sorted({thread for _, _, _, thread, backend in report.calls if backend == name})
        events += (_name("thread_name", pid, tid, report.threads_seen[tid]) for tid in tids)
    for index, start, took, thread, backend in report.calls:
        row = report.rows[index]
        about = {
            "layer": row.layer, "input": row.given, "output": row.result, "dtype": row.dtype,
            "operations a call": _each(row.operations, row.time.calls),
            "bytes a call": _each(row.bytes, row.time.calls),
            "bound by": row.bound, "fastconv bench --problem": row.problem,
        }  # fmt: skip
        events.append({
            "name": f"{row.path} {row.pass_}", "cat": row.pass_, "ph": "X", "ts": round(start, 3),
            "dur": round(took, 3), "pid": processes[backend], "tid": thread,
            "args": {name: value for name, value in about.items() if value is not None},
        })  # fmt: skip
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {name: str(value) for name, value in report.fastconv.items()},
    }


def _name(what: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": pid, "tid": tid, "args": {"name": name}}


def _each(count: int | None, calls: int) -> int | None:
    return None if count is None else round(count / calls)
