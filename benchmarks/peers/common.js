'use strict';
// Shared parts of the peers in JavaScript: command line, startup message and shutdown.

const fs = require('fs');
const http = require('http');
const https = require('https');

// Backlog of the listening socket, the same for all peers.
const BACKLOG = 4096;

// Return a server, over TLS if there is a file with certificate and key.
exports.createServer = function createServer() {
  const at = process.argv.indexOf('--tls');
  if (at < 0) return http.createServer();
  const pem = fs.readFileSync(process.argv[at + 1]);
  return https.createServer({ cert: pem, key: pem });
};

exports.listen = function listen(server) {
  const at = process.argv.indexOf('--port');
  const port = at < 0 ? 0 : Number(process.argv[at + 1]);
  server.listen({ port, host: '127.0.0.1', backlog: BACKLOG }, () => {
    console.log(`pid ${process.pid} port ${server.address().port}`);
  });
  process.on('SIGTERM', () => process.exit(0));
};
