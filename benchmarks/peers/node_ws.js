'use strict';
// A ceiling, no SockJS: bare websockets by `ws` for Node.js, at /echo/websocket and /broadcast/websocket.

const http = require('http');
const { WebSocketServer } = require('ws');
const { listen } = require('./common');

// What the load asks for before it begins.
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
