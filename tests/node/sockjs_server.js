// The reference server, `sockjs` for Node.js, for the tests of our own client.

"use strict";

const http = require("http");
const sockjs = require("sockjs");

function service(server, prefix, options, onConnection) {
  const made = sockjs.createServer({ log: () => {}, response_limit: 4096, ...options });
  made.on("connection", (connection) => { if (connection !== null) onConnection(connection); });
  made.installHandlers(server, { prefix });
}

function echo(connection) {
  connection.on("data", (message) => {
    if (message === "close") connection.close(4001, "as you wish");
    else connection.write(message);
  });
}

const server = http.createServer();
service(server, "/echo", { heartbeat_delay: 200 }, echo);
service(server, "/no_websocket", { websocket: false, jsessionid: true }, echo);
service(server, "/close", {}, (connection) => connection.close(3000, "Go away!"));
server.listen(0, "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port}`));
process.on("SIGTERM", () => process.exit(0));
