// Runs scenarios with sockjs-client in Node.js: takes the chains as JSON on standard input, writes what was seen as JSON.

"use strict";

const SockJS = require("sockjs-client");
const { run } = require("../browser/pages/scenarios.js");

// What is thrown outside of a scenario is told of, and the others go on.
process.on("uncaughtException", (error) => console.error(error));

let input = "";
process.stdin.setEncoding("utf-8");
process.stdin.on("data", (chunk) => { input += chunk; });
process.stdin.on("end", async () => {
  const results = await run(SockJS, JSON.parse(input), {});
  // At once: sockjs-client keeps a timer of the transport that did not work.
  process.stdout.write(JSON.stringify(results), () => process.exit());
});
