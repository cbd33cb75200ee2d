'use strict';
// The peer `sockjs` for Node.js, the protocol's reference server: /echo and /broadcast.

const sockjs = require('sockjs');
const { createServer, listen } = require('./common');

const quiet = { log: () => {} };
const clients = new Set();

const echo = sockjs.createServer(quiet);
echo.on('connection', (connection) => {
  if (connection === null) return;
  connection.on('data', (message) => connection.write(message));
});

const broadcast = sockjs.createServer(quiet);
broadcast.on('connection', (connection) => {
  if (connection === null) return;
  clients.add(connection);
  connection.on('data', (message) => {
    for (const other of clients) other.write(message);
  });
  connection.on('close', () => clients.delete(connection));
});

const server = createServer();
echo.installHandlers(server, { prefix: '/echo' });
broadcast.installHandlers(server, { prefix: '/broadcast' });
listen(server);
