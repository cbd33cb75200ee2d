"""What stands in Redis: claims of sessions and envelopes of messages, which any program that can write there writes."""

import json
import re

from sockjs_tornado.cluster.claim_format import _signed_text, encode_claim, parse_claim
from sockjs_tornado.cluster.envelope import decode, value_of
from sockjs_tornado.cluster.secret import Secrets

from ..target import text_of

_SECRETS = Secrets(b"a secret of 16 bytes, or more")
_KEY = "/chat:session"
_ADDRESS = re.compile(r"http://[^\s/@?#]+:[0-9]{1,5}")


class Target:
    """The first line is a claim without its code, the rest an envelope.

    - A claim that no node has written is rejected with ValueError.
    - If the code is right, the claim is rejected with ValueError, or has a node and an address that have no space,
      control character or path, and is the claim that a node writes for them.
    - An envelope is rejected with ValueError, or its node is an id, its numbers are not negative, and its message is a
      text or a JSON container.
    """

    def __call__(self, data: bytes) -> None:
        claim, _, envelope = data.partition(b"\n")
        self._check_claim(claim)
        self._check_envelope(envelope)

    def _check_claim(self, data: bytes) -> None:
        try:
            parse_claim(_SECRETS, _KEY, data)
        except ValueError:
            pass
        else:
            raise AssertionError("a claim without a code was accepted")
        claim = data.decode("latin-1")
        value = f"{claim} {_SECRETS.sign(_signed_text(_KEY, claim))}".encode("latin-1")
        try:
            owner = parse_claim(_SECRETS, _KEY, value)
        except ValueError:
            return
        assert value == encode_claim(_SECRETS, _KEY, owner)
        assert re.fullmatch(r"[!-~]{1,64}", owner.node), owner
        assert _ADDRESS.fullmatch(owner.address), owner

    def _check_envelope(self, data: bytes) -> None:
        try:
            node, tag, message, position = decode(data)
        except ValueError:
            return
        assert re.fullmatch(r"[!-~]{0,64}", node), node
        assert tag >= 0
        assert position is None or position.offset >= 0
        value = value_of(message)
        assert isinstance(value, str | list | dict)
        fields = json.loads(text_of(data))
        assert fields[4] == str(message)
