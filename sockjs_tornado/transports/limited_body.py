"""Request bodies that are collected piece by piece, within the limits of their endpoint. No I/O."""

import zlib
from collections.abc import Iterator
from typing import Final

from ..exceptions import BadRequest
from ..wire.budget import BudgetShare
from .endpoint import TOO_LARGE, TRY_AGAIN, Endpoint

#: Maximum bytes that are decompressed at a time.
_PIECE_SIZE: Final = 64 * 1024


class LimitedBody:
    """A request body, decompressed if the server decompresses bodies and this one is.

    Each method but :meth:`release` raises BadRequest if the body exceeds a limit or is invalid.

    Attributes:
        data: The collected data.
        share: Its share in the memory budget.
    """

    __slots__ = ("_inflater", "_limit", "_limit_name", "data", "share")

    def __init__(self, endpoint: Endpoint, method: str, *, is_compressed: bool) -> None:
        self.data = bytearray()
        self.share = BudgetShare(endpoint.server.body_budget)
        self._limit, self._limit_name = endpoint.body_limit(method)
        self._inflater = zlib.decompressobj(16 + zlib.MAX_WBITS) if is_compressed else None

    def check_size(self, size: int) -> None:
        """Check that a body of ``size`` bytes is allowed, also one that is still compressed."""
        if size > self._limit:
            raise BadRequest(413, TOO_LARGE.decode(), self._limit_name)
        if not self.share.fits(size):
            raise BadRequest(503, TRY_AGAIN.decode(), "max_buffered_body_bytes")

    def add(self, data: bytes) -> Iterator[int]:
        """Add the next bytes, in steps; yield the number of bytes that each step has processed."""
        inflater = self._inflater
        if inflater is None:
            self._append(data)
        yield len(data)
        while data and inflater is not None:
            try:
                if inflater.eof:
                    raise zlib.error
                inflated = inflater.decompress(data, _PIECE_SIZE)
            except zlib.error:
                raise BadRequest(400, "Broken gzip encoding.") from None
            data = inflater.unconsumed_tail or inflater.unused_data
            self._append(inflated)
            yield len(inflated)

    def _append(self, data: bytes) -> None:
        self.check_size(len(self.data) + len(data))
        self.data += data
        self.share.resize(len(self.data))

    def finish(self) -> None:
        """Check that the body is complete."""
        if self._inflater is not None and not self._inflater.eof:
            raise BadRequest(400, "Broken gzip encoding.")

    def release(self) -> None:
        """Free the memory."""
        self.data = bytearray()
        self.share.resize(0)
