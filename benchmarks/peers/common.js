'use strict';
// What the peers written in JavaScript share: the port they are given, the line they print, and their end.

// Connections that may wait to be accepted: as many for every peer, so that none of them drops what another takes.
const BACKLOG = 4096;

exports.listen = function listen(server) {
  const at = process.argv.indexOf('--port');
  const port = at < 0 ? 0 : Number(process.argv[at + 1]);
  server.listen({ port, host: '127.0.0.1', backlog: BACKLOG }, () => {
    console.log(`pid ${process.pid} port ${server.address().port}`);
  });
  process.on('SIGTERM', () => process.exit(0));
};
