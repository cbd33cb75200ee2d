// Runs websocket-multiplex over sockjs-client in Node.js: two pages with two channels each, on one transport after the
// other. Takes [url, transports, names, payload] as JSON on the command line, writes what was heard as JSON.

"use strict";

const fs = require("node:fs");
const vm = require("node:vm");
const SockJS = require("sockjs-client");

const [url, transports, names, payload] = JSON.parse(process.argv[2]);

vm.runInThisContext(fs.readFileSync(require.resolve("websocket-multiplex/multiplex_client.js"), "utf-8"));

// One page, and what each of its channels hears.
function open(transport) {
  const socket = new SockJS(url, null, { transports: [transport] });
  const page = { socket, multiplex: new WebSocketMultiplex(socket), heard: names.map(() => []), waiting: () => {} };
  page.channels = names.map((name, i) => {
    const channel = page.multiplex.channel(name);
    const hear = (what) => { page.heard[i].push(what); page.waiting(); };
    channel.onmessage = (event) => hear(event.data);
    channel.onclose = () => hear("closed");
    return channel;
  });
  // Resolves once the channels have heard so much.
  page.hear = (...counts) => new Promise((resolve) => {
    page.waiting = () => { if (counts.every((count, i) => page.heard[i].length >= count)) resolve(); };
    page.waiting();
  });
  return page;
}

async function run(transport) {
  const first = open(transport);
  await first.hear(2, 2);
  const second = open(transport);
  await Promise.all([first.hear(3, 3), second.hear(2, 2)]);
  for (const channel of first.channels) channel.send(payload);
  await Promise.all([first.hear(4, 4), second.hear(3, 3)]);
  first.channels[0].close();
  await Promise.all([first.hear(5, 4), second.hear(4, 3)]);
  second.channels[1].send("still here");
  await Promise.all([first.hear(5, 5), second.hear(4, 4)]);
  const used = [first.socket.transport, second.socket.transport];
  first.socket.close();
  await second.hear(4, 5);
  const left = new Promise((resolve) => { second.socket.onclose = resolve; });
  second.socket.close();
  await left;
  return { first: first.heard, second: second.heard, transports: used };
}

(async () => {
  const results = {};
  for (const transport of transports) results[transport] = await run(transport);
  // At once: sockjs-client keeps timers.
  process.stdout.write(JSON.stringify(results), () => process.exit());
})();
