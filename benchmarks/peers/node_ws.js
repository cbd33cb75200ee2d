'use strict';
// An upper limit without SockJS: plain websockets with `ws` for Node.js, at /echo/websocket and /broadcast/websocket.

const http = require('http');
const { WebSocketServer } = require('ws');
const { listen } = require('./common');

// The /info that the load requests first.
const INFO = JSON.stringify({ websocket: true });

const echo = new WebSocketServer({ noServer: true });
echo.on('connection', (socket) => {
  socket.on('error', () => {});
  socket.on('message', (message, binary) => socket.send(message, { binary }));
});

const broadcast = new WebSocketServer({ noServer: true });
broadcast.on('connection', (socket) => {
  socket.on('error', () => {});
  socket.on('message', (message, binary) => {
    for (const other of broadcast.clients) other.send(message, { binary });
  });
});

const servers = { '/echo/websocket': echo, '/broadcast/websocket': broadcast };
const server = http.createServer((request, response) => response.end(INFO));
server.on('upgrade', (request, socket, head) => {
  const chosen = servers[request.url];
  if (!chosen) return socket.destroy();
  chosen.handleUpgrade(request, socket, head, (client) => chosen.emit('connection', client));
});
listen(server);
