"""The threads of NumPy's BLAS."""

from __future__ import annotations

from ...extras import need


def limit_blas(count: int) -> None:
    """Let NumPy's matrix products use so many threads from now on."""
    need("threadpoolctl", "bench").threadpool_limits(limits=count, user_api="blas")
