"""What stands in Redis: claims of sessions and envelopes of messages, which any program that can write there writes."""

import json
import re

from sockjs_tornado.cluster.claim_format import DeadOwner, _signed_text, encode_claim, encode_tombstone, parse_claim
from sockjs_tornado.cluster.envelope import RedisKeys, decode, decode_control, decode_topic, encode_control, value_of
from sockjs_tornado.cluster.envelope_signing import EnvelopeSigner, EnvelopeVerifier, Unauthenticated
from sockjs_tornado.cluster.secret import Secrets

from ..target import text_of

_SECRETS = Secrets(b"a secret of 16 bytes, or more")
_KEY = "/chat:session"
_KEYS = RedisKeys("sockjs")
_ROOM = "lobby"
_ADDRESS = re.compile(r"https?://[^\s/@?#]+:[0-9]{1,5}")


class Target:
    """The first line is a claim without its code, the rest an envelope.

    - A claim that no node has written is rejected with ValueError.
    - If the code is right, the claim is rejected with ValueError, or has a node and an address that have no space,
      control character or path, and is the claim that a node writes for them.
    - An envelope is rejected by a node with a secret. If a right code is added, it is delivered once, in its room, or
      rejected with ValueError.
    - An envelope is rejected with ValueError, or its node is an id, its numbers are not negative, and its message is a
      text or a JSON container.
    - One channel accepts it at most: those of rooms a message, that of commands a command, or those of topics JSON. A
      command is the one that a node writes for its fields.
    """

    def __call__(self, data: bytes) -> None:
        claim, _, envelope = data.partition(b"\n")
        self._check_claim(claim)
        self._check_envelope(envelope)
        self._check_signature(envelope)

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
        assert re.fullmatch(r"[!-~]{1,64}", owner.node), owner
        if isinstance(owner, DeadOwner):
            assert value == encode_tombstone(_SECRETS, _KEY, owner.node)
            return
        assert value == encode_claim(_SECRETS, _KEY, owner)
        assert _ADDRESS.fullmatch(owner.address), owner

    def _check_envelope(self, data: bytes) -> None:
        accepted = [self._check_command(data), self._check_topic(data), self._check_message(data)]
        assert sum(accepted) <= 1, accepted

    def _check_command(self, data: bytes) -> bool:
        try:
            node, tag, command, *_ = decode_control(data)
        except ValueError:
            return False
        assert tag >= 0
        assert decode_control(encode_control(node, tag, command))[:3] == (node, tag, command)
        assert command.action in ("disconnect", "join", "leave", "send"), command
        assert command.target.kind in ("room", "tag", "id"), command
        if command.action == "send" and command.arguments[0] == "j":
            assert isinstance(json.loads(command.arguments[1]), list | dict)
        return True

    def _check_topic(self, data: bytes) -> bool:
        try:
            text = decode_topic(data).text
        except ValueError:
            return False
        json.loads(text)
        return True

    def _check_message(self, data: bytes) -> bool:
        try:
            node, tag, message, position, *_ = decode(data)
        except ValueError:
            return False
        assert re.fullmatch(r"[!-~]{0,64}", node), node
        assert tag >= 0
        assert position is None or position.offset >= 0
        value = value_of(message)
        assert isinstance(value, str | list | dict)
        fields = json.loads(text_of(data))
        assert fields[4] == str(message)
        return True

    def _check_signature(self, data: bytes) -> None:
        verifier = EnvelopeVerifier(_KEYS, _SECRETS)
        try:
            verifier.decode(_ROOM, data)
        except ValueError:
            pass
        else:
            raise AssertionError("an envelope without a code was accepted")
        # The data as the body of an envelope.
        signed = data + EnvelopeSigner("a", _KEYS, _SECRETS).tails(data)(_KEYS.channel(_ROOM))
        try:
            envelope = verifier.decode(_ROOM, signed)
        except ValueError:
            return
        assert json.loads(text_of(data) + "]") == json.loads(text_of(signed))[:5]
        assert envelope.position is None
        for room in (_ROOM, "other"):
            try:
                verifier.decode(room, signed)
            except Unauthenticated as error:
                assert error.is_replayed is (room == _ROOM)
            else:
                raise AssertionError("an envelope was accepted twice, or in another room")
