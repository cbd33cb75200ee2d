#!/usr/bin/env bash
# A client for the raw websocket in pure bash: send a message and a close frame, print the responses. A mask of zeros is valid.
#
#     examples/raw_client/client.sh localhost 8081 /echo/websocket
set -eu
[ $# = 3 ] || { echo "usage: $0 HOST PORT PATH" >&2; exit 2; }
exec 3<>"/dev/tcp/$1/$2"
printf '%s\r\n' "GET $3 HTTP/1.1" "Host: $1:$2" 'Upgrade: websocket' 'Connection: Upgrade' \
    'Sec-WebSocket-Version: 13' 'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==' '' >&3
printf '\x81\x85\0\0\0\0hello\x88\x80\0\0\0\0' >&3 # a text frame, and a close frame
cat <&3
