'use strict';
// Shared parts of the peers in JavaScript: command line, startup message and shutdown.

// Backlog of the listening socket, the same for all peers.
const BACKLOG = 4096;

exports.listen = function listen(server) {
  const at = process.argv.indexOf('--port');
  const port = at < 0 ? 0 : Number(process.argv[at + 1]);
  server.listen({ port, host: '127.0.0.1', backlog: BACKLOG }, () => {
    console.log(`pid ${process.pid} port ${server.address().port}`);
  });
  process.on('SIGTERM', () => process.exit(0));
};
